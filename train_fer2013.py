"""Train DAN on FER2013.

python train_fer2013.py --data datasets/fer2013
"""

from functools import partial

from torch.optim import AdamW

from datasets import FER2013, transforms
from engine import Recipe, run
from engine.schedules import warmup_cosine
from networks import Method

RECIPE = Recipe(
    name="fer2013",
    dataset=FER2013,
    train_transform=transforms.fer2013_train,
    evaluation_transform=transforms.evaluation,
    method=Method(),
    image_size=64,
    epochs=20,
    batch_size=128,
    lr=1e-3,
    optimizer=partial(AdamW, weight_decay=0.05),
    scheduler=warmup_cosine,
)

if __name__ == "__main__":
    run(RECIPE, __doc__)
