"""Has a mistake of its own in its training code."""


def compute_reward(batch: dict[str, list[int]]) -> int:
    return batch["rewards"][7]


for step in range(2):
    print({"loss": 2.5 - step, "epoch": step}, flush=True)
compute_reward({"rewards": [1, 2]})
