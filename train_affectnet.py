"""Train DAN on AffectNet (paper, Tables 3 and 4: 62.09 % on 8 classes, 65.69 % on 7).

    python train_affectnet.py --data datasets/affectnet
    python train_affectnet.py --data datasets/affectnet --classes 7 --output runs/affectnet7

needs AffectNet in one of its three layouts and the MS-Celeb-1M weights in models/pretrain/. It
writes runs/affectnet-seed0/ with config.json, metrics.csv, last.pth and best.pth, prints a line an
epoch and last the accuracies of the last and of the best epoch. Every flag defaults to the paper's
value or, where the paper is silent, the release's. The release's README trains for 10 epochs, and
its best ones were the 5th and 6th; the learning rate falls to 0.6 of itself every epoch, so little
changes after the 15th.
"""

from functools import partial

from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

from datasets import AffectNet, transforms
from engine import Recipe, run
from engine.optim import balanced
from networks import Method

RECIPE = Recipe(
    name="affectnet",
    dataset=AffectNet(),
    train_transform=transforms.affectnet_train,
    evaluation_transform=transforms.evaluation,
    method=Method(),
    epochs=40,
    batch_size=256,
    lr=1e-4,
    optimizer=partial(Adam, weight_decay=0.0),
    scheduler=partial(ExponentialLR, gamma=0.6),
    sampling=balanced,
)

if __name__ == "__main__":
    run(RECIPE, __doc__)
