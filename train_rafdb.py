"""Train DAN on RAF-DB (paper, section 4 and Table 5: 89.70 % accuracy, best epoch of 40).

    python train_rafdb.py --data datasets/raf-basic

needs the aligned faces of RAF-DB and the MS-Celeb-1M weights in models/pretrain/. It writes
runs/rafdb-seed0/ with config.json, metrics.csv, last.pth and best.pth, prints a line an epoch and
last the accuracies of the last and of the best epoch. Every flag defaults to the paper's value or,
where the paper is silent, the release's.
"""

from functools import partial

from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from datasets import RAFDB, transforms
from engine import Recipe, run
from networks import Method

RECIPE = Recipe(
    name="rafdb",
    dataset=RAFDB,
    train_transform=transforms.rafdb_train,
    evaluation_transform=transforms.evaluation,
    method=Method(),
    epochs=40,
    batch_size=256,
    lr=0.1,
    optimizer=partial(SGD, momentum=0.9, weight_decay=1e-4),
    scheduler=partial(StepLR, step_size=10, gamma=0.1),
)

if __name__ == "__main__":
    run(RECIPE, __doc__)
