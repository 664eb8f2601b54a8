"""Do a checkpoint's batch statistics tell right tags from wrong ones? A rehearsal with a head trained here.

A head of the authors' form (Linear–BatchNorm–ReLU on 100 × cosines) is trained on real photos with the bundled
encoder and tags; then `tmcr.official.head.mean_embedding` has to find the mean photo again, with the right tags
and with wrong ones. The layer has 4/3 as many units as embeddings have numbers, as theirs has (1,024 to 768).

python -m benchmarks.official_tags --data oasis@../shared/data/oasis
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from benchmarks.mean_only import embeddings
from tmcr.datasets import load_manifest
from tmcr.losses import emd_loss
from tmcr.modelfolder import STARTER, load_model
from tmcr.official.head import mean_embedding
from tmcr.official.importing import MISFIT_LIMIT

LEARNING_RATE, DECAY, BATCH = 1e-4, 0.9, 64  # the paper's


def trained_layer(similarities: Tensor, distributions: Tensor, units: int, epochs: int, seed: int) -> dict[str, Tensor]:
    """The tag layer and its batch statistics under the checkpoint's names."""
    torch.manual_seed(seed)
    layer, norm = nn.Linear(similarities.shape[1], units), nn.BatchNorm1d(units)
    net = nn.Sequential(layer, norm, nn.ReLU(), nn.Linear(units, distributions.shape[1]), nn.Softmax(1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * DECAY**epoch
        for rows in torch.randperm(len(similarities)).split(BATCH):
            loss = emd_loss(net(similarities[rows]), distributions[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    tensors = {f"TF_Fea_shift.0.{name}": value.detach() for name, value in layer.named_parameters()}
    statistics = {"running_mean": norm.running_mean, "running_var": norm.running_var}
    return tensors | {f"TF_Fea_shift.1.{name}": value for name, value in statistics.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="data SPEC")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()

    manifest, model = load_manifest(options.data), load_model(STARTER)
    text, n_semantic = model.text, model.libraries.n_semantic
    photos = torch.from_numpy(embeddings(manifest)).float()
    true = (photos @ text.T).mean(0)
    generator = torch.Generator().manual_seed(0)
    wrong = {
        "right": text,
        "one tag missing at the front, one more at the end": text.roll(-1, 0),
        "the two files swapped": torch.cat([text[n_semantic:], text[:n_semantic]]),
        "sorted at random": text[torch.randperm(len(text), generator=generator)],
    }
    print(f"{manifest.description}; {len(text)} tags; limit {MISFIT_LIMIT}\n")
    print("| tags | misfit | correlation with the true mean similarities |\n|---|---|---|")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in wrong}
    for seed in range(options.seeds):
        distributions = torch.from_numpy(manifest.distributions).float()
        units = photos.shape[1] * 4 // 3
        tensors = trained_layer(100 * photos @ text.T, distributions, units, options.epochs, seed)
        for name, tags in wrong.items():
            embedding, misfit, _ = mean_embedding(tensors, tags)
            agreement = float(torch.corrcoef(torch.stack([tags @ embedding, true]))[0, 1])
            found[name].append((misfit, agreement))
    for name, rows in found.items():
        misfits, agreements = zip(*rows, strict=True)
        print(f"| {name} | {min(misfits):.3f} … {max(misfits):.3f} | {min(agreements):.3f} … {max(agreements):.3f} |")


if __name__ == "__main__":
    main()
