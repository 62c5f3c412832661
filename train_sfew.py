"""Train DAN on SFEW 2.0 (paper, Table 6: 57.88 % on the 436 validation faces, best of 40 epochs).

    python -m tools.align_sfew SFEW2.0 datasets/sfew-aligned
    python train_sfew.py --data datasets/sfew-aligned

needs the aligned faces and the MS-Celeb-1M weights in models/pretrain/. It writes runs/sfew-seed0/
with config.json, metrics.csv, last.pth and best.pth, prints a line an epoch and last the accuracies
of the last and of the best epoch.

The release has no script for SFEW. The values below are the paper's and the author's; the rest,
optimiser and schedule included, is AffectNet's recipe (--scheduler constant keeps the rate).
"""

from dataclasses import replace

from datasets import SFEW, transforms
from engine import run
from engine.optim import shuffle
from train_affectnet import RECIPE as AFFECTNET

RECIPE = replace(
    AFFECTNET,
    name="sfew",
    dataset=SFEW,
    train_transform=transforms.sfew_train,
    batch_size=16,
    lr=1e-3,
    sampling=shuffle,  # the paper balances the classes of AffectNet alone
)

if __name__ == "__main__":
    run(RECIPE, __doc__)
