"""Train DAN on SFEW 2.0 (paper, Table 6: 57.88 % on the 436 validation faces, best of 40 epochs).

    python -m tools.align_sfew SFEW2.0 datasets/sfew-aligned
    python train_sfew.py --data datasets/sfew-aligned

needs the aligned faces and the MS-Celeb-1M weights in models/pretrain/. It writes
runs/sfew-seed0/ with config.json, metrics.csv, last.pth and best.pth, and prints a line an epoch.

The release has no script for SFEW: what the paper and the author say of it is below, the rest is
AffectNet's recipe, its optimizer and scheduler included (--scheduler constant does without).
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
