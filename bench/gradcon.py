"""What the gradient constraint costs in training, and what batching gains in scoring: `python -m bench.gradcon`.

Both sides of a pair run in turn, so that what else the machine does falls on both alike; the medians of CPU time (of all threads) and of
wall time are shown. On a busy machine only the CPU time means something. Each side runs once before it is timed, and scoring is that of a set,
several batches one after the other: what other work has left in the caches, or a processor that was idle, costs the first tenth of a second a third.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gradfast.gradcon import ConvAutoencoder, GradConLoss, GradConScorer

Pair = tuple[Callable[[], object], Callable[[], object]]


def training_pair(batch: int, channels: int, per_image: bool = False) -> Pair:
    """One step of plain training, and one with the constraint, on the batch's gradient or each image's."""
    x = torch.rand(batch, channels, 28, 28)
    models = [ConvAutoencoder(channels) for _ in range(2)]
    optimizers = [torch.optim.Adam(m.parameters(), 1e-3) for m in models]
    criterion = GradConLoss(models[1], per_image=per_image)

    def plain() -> None:
        optimizers[0].zero_grad()
        F.mse_loss(models[0](x), x).backward()
        optimizers[0].step()

    def constrained() -> None:
        optimizers[1].zero_grad()
        criterion(x).total.backward()
        optimizers[1].step()

    return plain, constrained


def scoring(batch: int, channels: int, batches: int) -> tuple[Pair, Callable[[], object], float]:
    """Batches scored image by image as the published code does, and at once; what no way of scoring can leave out (the forward pass and
    the error's gradient for every tensor's output in the decoder); and the largest difference of the cosines.
    """
    x = torch.rand(batches * batch, channels, 28, 28)
    model = ConvAutoencoder(channels)
    criterion, optimizer = GradConLoss(model), torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        criterion(torch.rand_like(x[:batch])).total.backward()
        optimizer.step()
    model.eval()
    scorer = GradConScorer(model, criterion, batch_size=batch)
    weights = dict(model.named_parameters())
    reference = criterion.reference.as_dict()

    def loop() -> Tensor:
        rows = []
        for image in x.split(1):
            model.zero_grad()
            F.mse_loss(model(image), image).backward()
            rows.append(
                torch.stack(
                    [
                        F.cosine_similarity(weights[n].grad.flatten(), r.flatten(), dim=0)
                        for n, r in reference.items()
                    ]
                )
            )
        return torch.stack(rows)

    def least() -> None:
        for p in model.decoder.parameters():
            p.requires_grad_(False)
        for part in x.split(batch):
            with torch.no_grad():
                latent = model.encoder(part)
            latent.requires_grad_()
            torch.autograd.grad(F.mse_loss(model.decoder(latent), part), latent)
        for p in model.decoder.parameters():
            p.requires_grad_(True)

    difference = float((loop() - torch.from_numpy(scorer(x).cosines)).abs().max())
    return (loop, lambda: scorer(x)), least, difference


def medians(pair: Pair, repeats: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(CPU, wall) milliseconds of each side."""
    times: tuple[list[tuple[float, float]], ...] = ([], [])
    for i in range(repeats + 1):
        for side, function in enumerate(pair):
            function()
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            if i > 0:
                times[side].append((time.process_time() - cpu, time.perf_counter() - wall))
    a, b = (tuple(1e3 * statistics.median(t[k] for t in side) for k in (0, 1)) for side in times)
    return (a[0], a[1]), (b[0], b[1])


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batches", type=int, default=10, help="that are scored one after the other")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    plain, constrained = medians(training_pair(given.batch, given.channels), given.repeats)
    beside, per_image = medians(training_pair(given.batch, given.channels, per_image=True), given.repeats)
    pair, least, difference = scoring(given.batch, given.channels, given.batches)
    loop, batched = medians(pair, max(3, given.repeats // 3))
    floor, _ = medians((least, pair[1]), given.repeats)
    print(
        f"batches of {given.batch}, {given.batches} scored in a row, {given.channels} channels, {given.threads} threads, "
        f"torch {torch.__version__}; times of one batch of scores\n"
    )
    loop, batched, floor = (
        (cpu / given.batches, wall / given.batches) for cpu, wall in (loop, batched, floor)
    )
    print("| | CPU ms | wall ms | ratio, CPU | ratio, wall |\n|---|---|---|---|---|")
    print(f"| plain training step | {plain[0]:.1f} | {plain[1]:.1f} | | |")
    print(
        f"| constrained step | {constrained[0]:.1f} | {constrained[1]:.1f} | "
        f"{constrained[0] / plain[0]:.2f} | {constrained[1] / plain[1]:.2f} |"
    )
    print(
        f"| constrained step, per image | {per_image[0]:.1f} | {per_image[1]:.1f} | "
        f"{per_image[0] / beside[0]:.2f} | {per_image[1] / beside[1]:.2f} |"
    )
    print(f"| scores, image by image | {loop[0]:.1f} | {loop[1]:.1f} | | |")
    print(
        f"| scores, batched | {batched[0]:.1f} | {batched[1]:.1f} | {loop[0] / batched[0]:.1f} | {loop[1] / batched[1]:.1f} |"
    )
    print(
        f"| forward and the decoder's input gradient, no scores | {floor[0]:.1f} | {floor[1]:.1f} | "
        f"{loop[0] / floor[0]:.1f} | {loop[1] / floor[1]:.1f} |"
    )
    print(f"\nlargest difference of the cosines: {difference:.1e}")


if __name__ == "__main__":
    main()
