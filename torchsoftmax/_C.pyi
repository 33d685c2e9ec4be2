from collections.abc import Callable

from torch import Tensor
from torch._ops import OpOverload

torch_version: str
compiler: str
cuda: bool

def softmax_call(op: OpOverload) -> Callable[..., Tensor]: ...
def log_softmax_call(op: OpOverload) -> Callable[..., Tensor]: ...
def cross_entropy_call(op: OpOverload) -> Callable[..., Tensor]: ...
