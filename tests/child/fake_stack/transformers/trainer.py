"""A Trainer that calls what the real one calls, in the same order, and trains nothing."""

from types import SimpleNamespace


class TrainerCallback:
    """What a callback of the real one inherits from."""


class Trainer:
    """`max_steps` steps; `meet(step)` stands for the collective without which none is complete."""

    def __init__(self, output_dir, max_steps, meet=lambda step: None):
        self.args = SimpleNamespace(
            output_dir=output_dir, save_strategy="steps", gradient_accumulation_steps=2
        )
        self.state = SimpleNamespace(global_step=0, max_steps=max_steps, epoch=0.0)
        self.control = SimpleNamespace(
            should_training_stop=False, should_save=False, should_evaluate=False
        )
        self.callbacks = []
        self.meet = meet

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def tell(self, name):
        for callback in self.callbacks:
            getattr(callback, name, lambda *_: None)(self.args, self.state, self.control)

    def train(self):
        self.tell("on_train_begin")
        while self.state.global_step < self.state.max_steps:
            for _ in range(self.args.gradient_accumulation_steps):
                self.training_step(None, {})
            self.meet(self.state.global_step + 1)
            self.state.global_step += 1
            self.tell("on_step_end")
            if self.control.should_save:
                self._save_checkpoint(None, None)
            if self.control.should_training_stop:
                break
        self.tell("on_train_end")

    def training_step(self, model, inputs):
        return 1.0

    def evaluate(self):
        return {}

    def predict(self):
        return {}

    def _save_checkpoint(self, model, trial):
        pass

    def _get_output_dir(self, trial):
        return self.args.output_dir

    def _get_learning_rate(self):
        return 0.1
