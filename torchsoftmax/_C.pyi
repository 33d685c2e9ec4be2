torch_version: str
compiler: str
cuda: bool
