"""The gallery page: one self-contained file that a browser shows and that no file name can break."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostile_photos import scene
from PIL import Image
from test_results import FAILED, verdict

from tmcr.assessment import Assessment
from tmcr.errors import DataError
from tmcr.report.gallery import THUMBNAIL, write_gallery

NASTY = "</script><script>document.title='broken in'</script><img src=x onerror=alert(1)>.jpg"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


@pytest.fixture
def verdicts(tmp_path: Path) -> list[Assessment]:
    names = ["one.jpg", "two & three.jpg", NASTY.replace("/", "∕")]
    made = []
    for number, name in enumerate(names):
        scene(800, 500, seed=number).save(tmp_path / name, "JPEG")
        made.append(replace(verdict(str(tmp_path / name), score=4.0 + number), width=800, height=500))
    return [*made, FAILED]


def test_the_page_holds_every_photo_and_fetches_nothing(verdicts: list[Assessment], tmp_path: Path) -> None:
    out = tmp_path / "gallery.html"
    assert write_gallery(iter(verdicts), out, title="A & B") == 4
    page = out.read_text(encoding="utf-8")
    assert "<title>A &amp; B · tmcr</title>" in page
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
    photos = [
        json.loads(text) for text in re.findall(r'<script type="application/json" class="photo">(.*?)</script>', page)
    ]
    assert [photo["photo"] for photo in photos] == [each.photo for each in verdicts]
    assert photos[0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert photos[3]["error"] == "cut short"
    assert page.count("</script>") == 5  # one a photo, and the page's own


def test_thumbnails_are_small_and_a_vanished_photo_keeps_its_row(verdicts: list[Assessment], tmp_path: Path) -> None:
    import base64
    import io

    Path(verdicts[1].photo).unlink()
    out = tmp_path / "gallery.html"
    write_gallery(verdicts, out)
    thumbnails = re.findall(r'"thumbnail":"([^"]*)"', out.read_text())
    image = Image.open(io.BytesIO(base64.b64decode(thumbnails[0].split(",")[1])))
    assert max(image.size) == THUMBNAIL
    assert thumbnails[1] == ""


def test_an_interrupted_gallery_leaves_the_old_one(verdicts: list[Assessment], tmp_path: Path) -> None:
    out = tmp_path / "gallery.html"
    out.write_text("old")

    def stopped() -> Iterator[Assessment]:
        yield verdicts[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gallery(stopped(), out)
    assert out.read_text() == "old"
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(DataError, match="cannot be written"):
        write_gallery(verdicts, tmp_path / "gallery.html" / "below a file.html")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH")
def test_a_browser_shows_the_cards_best_first_and_runs_nothing_foreign(
    verdicts: list[Assessment], tmp_path: Path
) -> None:
    out = tmp_path / "gallery.html"
    write_gallery(verdicts, out, title="Ranked")
    dom = browse(out.as_uri(), tmp_path)
    assert "<title>Ranked · tmcr</title>" in dom  # which the file name tries to change
    scores = re.findall(r'<span class="score">([\d.]+)</span>', dom)
    assert scores == ["6.00", "5.00", "4.00"]
    assert dom.count('class="card failed"') == 1
    assert "4 photos" in dom
    opened = browse(out.as_uri() + "#photo-0", tmp_path)
    assert "<dialog" in opened
    assert "What raised and lowered it" in opened
    assert "soft light" in opened


def browse(url: str, scratch: Path) -> str:
    """The page as a browser has built it."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=3000", "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    return done.stdout
