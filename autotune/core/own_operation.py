"""Tells whether an operation that failed was called by the training's own code, from its frames."""

import re

from autotune.core.signature import HEAD

_FRAME = re.compile(
    r'^ {2}File "(?P<path>[^"\n]{1,4000})", line \d{1,9}, in (?P<name>[^\n]{1,200})$'
    r"(?P<source>(?:\n {4}[^\n]*)?)",
    re.M,
)
_TORCH = re.compile(r"(?:site|dist)-packages/torch/")
# Where torch is called back or makes code of its own, what called the operation is out of sight.
_HIDES = re.compile(r"/torch/(?:autograd|_dynamo|_inductor|_functorch)/|/torch/_tensor\.py|^<")
# Packages, also from a checkout, what a model's repository brought along, and generated code.
_INSTALLED = re.compile(
    r"(?:site|dist)-packages/|/lib(?:64)?/python\d|transformers_modules|torchinductor"
    r"|/(?:transformers|bitsandbytes|peft|accelerate|deepspeed|trl|llamafactory|axolotl|swift)/"
    r"|/autotune/child/"
)
_ATTENDS = re.compile(r"attention|attn|mask|flash", re.I)


def is_own(traceback: str) -> bool:
    """Return whether the innermost frame outside of torch is neither a package's nor attention's.

    Then no other attention and no other layer changes that operation. Where the frames do not say,
    as in a backward pass or in compiled code, the answer is no.
    """
    at = traceback.rfind(HEAD)  # the last of a chain is the one that nothing caught
    for frame in reversed(list(_FRAME.finditer(traceback, max(at, 0)))):
        path = frame["path"].replace("\\", "/")
        if _HIDES.search(path):
            return False
        if not _TORCH.search(path):
            said = frame["name"] + frame["source"]
            return not _INSTALLED.search(path) and not _ATTENDS.search(said)
    return False
