"""Which words speak of which looks: the bridge from attribute tags to the axes of `looks`.

A look is a direction in the space of axes with the words that name it. A phrase is read by these words, a
negation before them ("not sharp", "lack of contrast") turns the direction round, and what no word settles is
left to the nearest example in a sentence encoder (`phrases`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from looks import AXES


@dataclass(frozen=True)
class Look:
    """`tag`: the attribute tag that says it plainest; `weights`: by axis; `words`: a regular expression;
    `examples`: phrases that mean just this.
    """

    tag: str
    weights: dict[str, float]
    words: str
    examples: tuple[str, ...]


LOOKS = (
    Look("motion blur", {"motion": 1.0, "sharpness": -0.3},
         r"motion blur|camera shake|shak(y|en)|blurred motion|panning|streak|moving|slow shutter|smear|radial blur|"
         r"zoom blur",
         ("motion blur", "camera shake", "blurred by movement", "shaky")),
    Look("out of focus", {"defocus": 1.0, "sharpness": -0.6},
         r"blur|out of focus|unsharp|fuzzy|soft (subject|image|edge|focus)|softness|undersharpened|missed focus|"
         r"(back|front) focus|unfocus|hazy detail|low resolution|poor detail|^soft$|too soft",
         ("blurry", "out of focus", "soft", "fuzzy", "lacks sharpness", "unsharp")),
    Look("sharp", {"defocus": -0.8, "motion": -0.5, "sharpness": 0.8},
         r"\bsharp|crisp|in focus|(good|perfect|great|clear|nice|well) focus|focused|fine detail|detail|definition|"
         r"high resolution|clarity",
         ("sharp", "tack sharp", "crisp detail", "in focus", "highly detailed")),
    Look("noise", {"noise": 1.0, "fine noise": 0.4},
         r"nois|grain|high iso|speckle",
         ("noisy", "digital noise", "grainy", "high iso noise")),
    Look("clean image", {"noise": -0.8, "blocks": -0.6, "defocus": -0.4},
         r"clean image|low iso|good (image )?quality|high quality|technically (good|excellent)|smooth tones",
         ("noise-free", "clean image", "high image quality")),
    Look("compression artifacts", {"blocks": 1.0},
         r"compress|artifact|jpeg|pixelat|posteri[sz]|banding|poor (image )?quality|low quality|technically poor|"
         r"technical problem",
         ("compression artifacts", "jpeg blocks", "pixelated", "poor image quality")),
    Look("oversharpened", {"oversharpened": 1.0},
         r"over-?sharpen|halo|\bhdr\b|over-?processed|harsh detail|gritty",
         ("oversharpened", "halos around edges", "overprocessed hdr")),
    Look("underexposed", {"exposure": -0.7, "brightness": -0.8, "shadows": 0.5},
         r"under-?expos|too dark|underlit|dim\b|low.?light|murky|poorly lit",
         ("underexposed", "too dark", "dim light", "underlit")),
    Look("dark", {"brightness": -0.9, "shadows": 0.6, "exposure": -0.4},
         r"\bdark|low.?key|darkness|night|absence of light|black background|shadowy|gloom",
         ("dark", "low key", "dark tones", "darkness")),
    Look("overexposed", {"exposure": 0.8, "highlights": 0.8, "brightness": 0.5},
         r"over-?expos|blown|bleached|too bright|burn(ed|t) out|clipped highlights|harsh highlights|glar|overblown",
         ("overexposed", "blown highlights", "too bright", "burnt-out sky")),
    Look("bright", {"brightness": 0.9, "exposure": 0.4, "shadows": -0.4},
         r"\bbright|high.?key|light tones|luminous|well lit|airy|white background|radiant",
         ("bright", "high key", "light and airy", "luminous")),
    Look("deep shadows", {"shadows": 0.9, "spread": 0.5},
         r"shadow|deep black|rich black|silhouette|crushed",
         ("deep shadows", "rich blacks", "silhouette")),
    Look("bright areas", {"highlights": 0.8}, r"highlight|bright areas|specular", ("bright highlights",)),
    Look("washed out", {"contrast": -1.0, "spread": -0.7},
         r"flat|washed|faded|faint|\bpale\b|haz[ey]|fog|\bmist(y)?\b|weak contrast|soft contrast|dull|low contrast|"
         r"gray blacks|milky",
         ("washed out", "flat and faded", "low contrast", "hazy", "gray blacks")),
    Look("high contrast", {"contrast": 0.9, "spread": 0.8},
         r"contrast|punch|bold tones|dramatic (light|sky)",
         ("high contrast", "strong contrast", "punchy")),
    Look("oversaturated", {"saturation": 1.0, "colour": 0.7, "colourfulness": 0.6},
         r"over-?saturat|garish|gaudy|neon|too colou?rful|fluorescent",
         ("oversaturated", "garish colors", "too much saturation")),
    Look("vivid colors", {"colourfulness": 0.8, "colour": 0.7, "saturation": 0.5},
         r"colou?rful|vivid|vibrant|saturat|rich colou?r|bright colou?r|bold colou?r|strong colou?r|intense colou?r|"
         r"multicolou?red",
         ("colorful", "vivid colors", "vibrant", "saturated", "rich colors")),
    Look("muted colors", {"saturation": -0.6, "colour": -0.7, "colourfulness": -0.6},
         r"muted|desaturat|dull colou?r|bland colou?r|pastel|neutral tones|subdued|drab|pale colou?r|subtle colou?r",
         ("muted colors", "desaturated", "bland colors", "pastel")),
    Look("black and white", {"saturation": -1.0, "colour": -0.9, "colourfulness": -0.9, "hue variety": -0.5},
         r"black.and.white|black & white|monochrom|gr[ae]y ?scale|colou?rless|lack of colou?r|\bb&w\b|infrared|"
         r"(dark|light) gr[ae]y|\bgr[ae]y\b",
         ("black and white", "monochrome", "grayscale", "no color")),
    Look("sepia", {"warmth": 0.7, "measured warmth": 0.6, "hue variety": -0.6},
         r"sepia|old.?fashioned|vintage|antique|nostalgic", ("sepia", "vintage tone")),
    Look("warm tones", {"warmth": 0.8, "measured warmth": 0.8, "yellows": 0.2},
         r"warm|golden hour|sunset|sunrise|candle|fire|amber|sun-?kissed|afternoon light|evening light|tungsten|fiery",
         ("warm tones", "warm light", "golden light", "too warm")),
    Look("cool tones", {"warmth": -0.8, "measured warmth": -0.8, "blues": 0.2},
         r"\bcool|\bcold|icy|moonlight|frost|wint|blue (hour|tones|cast)|bluish",
         ("cool tones", "cold light", "bluish cast", "too cool")),
    Look("greenish", {"tint": 0.9, "measured tint": 0.8},
         r"green(ish)? (cast|tint|tones)|greenish|fluorescent light", ("green cast", "greenish tint")),
    Look("magenta cast", {"tint": -0.9, "measured tint": -0.8, "purples": 0.3},
         r"magenta|pink(ish)? (cast|tint)|pinkish|purplish", ("magenta cast", "pinkish tint")),
    Look("red", {"reds": 1.0}, r"\bred\b|scarlet|crimson|reddish|burgundy|maroon", ("red", "bright red")),
    Look("yellow", {"yellows": 1.0, "measured warmth": 0.4},
         r"yellow|orange|gold|earthy|brown|amber|ochre|tan\b", ("yellow", "orange", "golden tones", "earthy")),
    Look("green", {"greens": 1.0}, r"\bgreen\b|lime|emerald|olive", ("green", "light green")),
    Look("blue", {"blues": 1.0, "measured warmth": -0.4},
         r"\bblue\b|cyan|cobalt|navy|teal|turquoise|azure", ("blue", "navy blue", "cyan")),
    Look("purple", {"purples": 1.0}, r"purple|violet|mauve|lilac|\bpink\b|lavender", ("purple", "violet", "pink")),
    Look("variety of colors", {"hue variety": 1.0, "colourfulness": 0.3},
         r"multicolou?r|rainbow|complementary|many colou?rs|variety of colou?rs|red and green|blue and yellow",
         ("many different colors", "rainbow colors")),
    Look("vignette", {"vignette": 1.0, "dark rim": 0.6},
         r"vignett|dark corner|dark edges|spotlight|light falloff", ("heavy vignette", "dark corners")),
    Look("tilted horizon", {"tilt": 1.0},
         r"(tilted|crooked|slanted|uneven|leaning) horizon|tilt(ed)?\b(?!.shift)|crooked|slanted|lopsided|sideways|"
         r"not level|leaning|dutch angle",
         ("tilted horizon", "crooked", "not level", "slanted")),
    Look("straight horizon", {"tilt": -1.0}, r"(straight|level) horizon|\blevel\b|well aligned|upright",
         ("level horizon", "straight")),
    Look("tight crop", {"tightness": 1.0},
         r"close(-| )?up|too close|tight (crop|framing)|fills? the frame|large in the frame|macro|cropped too|"
         r"close view|narrow view|zoomed",
         ("tight crop", "close-up", "fills the frame", "too close")),
    Look("wide view", {"tightness": -1.0, "cut off": -0.3},
         r"wide(-| )view|distant|too far|small in the frame|wide angle|panoram|aerial|expansive|overview|spread out",
         ("wide view", "distant view", "small in the frame")),
    Look("cut off", {"cut off": 1.0, "tightness": 0.7},
         r"cut off|chopped|bad crop|poor(ly)? crop|awkward(ly)? (crop|position|framing)|partial view|cropped off|"
         r"poor placement|poor composition|bad composition|bad framing",
         ("cut off", "badly cropped", "chopped off")),
    Look("shallow depth of field", {"sharp centre": 1.0, "edges": -0.4},
         r"shallow|bokeh|blurred background|isolated subject|wide aperture|selective focus|large aperture",
         ("shallow depth of field", "bokeh", "blurred background")),
    Look("deep depth of field", {"sharp centre": -0.8, "edges": 0.4},
         r"deep (depth|focus)|everything in focus|small aperture|front to back", ("deep depth of field",)),
    Look("cluttered", {"edges": 0.9, "empty space": -0.9},
         r"clutter|busy|crowded|messy|chaotic|too much (detail|going on)|dense|complex|overwhelming|disjointed|"
         r"distracting background",
         ("cluttered", "busy composition", "messy", "crowded")),
    Look("simple composition", {"empty space": 1.0, "edges": -0.8},
         r"simpl|minimal|uncluttered|empty|negative space|dead space|wasted space|extra space|\bplain|sparse|clean "
         r"(lines|composition|background)|spacious|calm|tranquil|solitude",
         ("simple composition", "minimalist", "empty space", "plain background")),
    Look("symmetry", {"symmetry": 1.0},
         r"symmetr|mirror image|balanced|centered|dead center|frontal", ("symmetry", "mirror image", "balanced")),
    Look("rule of thirds", {"thirds": 1.0, "symmetry": -0.3},
         r"thirds|off.?cent|offset subject|well placed|good placement", ("rule of thirds", "off-center subject")),
    Look("horizontal lines", {"horizontals": 1.0}, r"horizontal|layer|horizon\b", ("horizontal lines", "layers")),
    Look("vertical lines", {"horizontals": -1.0}, r"vertical|\btall\b|height", ("vertical lines", "tall")),
    Look("bright sky", {"bright top": 1.0}, r"backlit|backlight|bright sky|top-?heavy|blown sky|lit from above",
         ("bright sky above dark ground", "backlit")),
    Look("graphic", {"bold shapes": 1.0, "spread": 0.4},
         r"bold|graphic|shape|geomet|striking|light and shadow|shadow play", ("bold shapes", "graphic")),
    Look("texture", {"edges": 0.8, "sharpness": 0.6, "empty space": -0.4},
         r"textur|rough|pattern|woven|ornate|rugged|crumpled|mossy|decorative",
         ("rich texture", "rough surface", "repeating pattern")),
    Look("smooth", {"edges": -0.8, "sharpness": -0.4, "empty space": 0.5},
         r"smooth|silky|glassy|polished|waxy|airbrush", ("smooth surface", "silky")),
)  # fmt: skip

_NEGATION = re.compile(
    r"\b(not|no|non|without|never|lack(s|ing)?( of)?|missing|absence of|free of|too little|insufficient|weak|poor|"
    r"less|isn't|un(?=[a-z]{4}))\b|-free\b|\bfree$|\blow(?= (contrast|saturation|noise|grain))"
)
# Looks whose own words already say that something is missing.
_SAYS_NO = {
    "out of focus", "washed out", "muted colors", "black and white", "clean image", "underexposed",
    "compression artifacts", "cut off", "dark",
}  # fmt: skip
SETTLED = 3  # looks that one phrase may name


def axis_vector(weights: dict[str, float]) -> np.ndarray:
    return np.array([weights.get(axis, 0.0) for axis in AXES], dtype=np.float32)


def read_looks(phrase: str) -> np.ndarray | None:
    """The direction (len(AXES),), of unit length, that the words of a phrase name; None where they name none."""
    text = phrase.lower()
    total = np.zeros(len(AXES), np.float32)
    found = []
    for look in LOOKS:
        match = re.search(look.words, text)
        if match is None:
            continue
        found.append((match.start(), -len(match.group()), look, match))
    # The longest words win where several looks claim the same place: "motion blur" is not "blur".
    taken: list[tuple[int, int]] = []
    for _, _, look, match in sorted(found, key=lambda item: item[1]):
        if any(match.start() < end and start < match.end() for start, end in taken) or len(taken) == SETTLED:
            continue
        taken.append(match.span())
        before = text[: match.start()]
        negated = bool(_NEGATION.search(before)) or bool(re.match(r"\w*-free\b", text[match.end() :]))
        if look.tag in _SAYS_NO and _NEGATION.search(match.group()):
            negated = False
        total += (-0.8 if negated else 1.0) * axis_vector(look.weights)
    length = float(np.linalg.norm(total))
    return total / length if length > 1e-6 else None
