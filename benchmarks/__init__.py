"""Benchmarks of torchsoftmax against its peers: ``python -m benchmarks`` from the repository root.

To add an operator, give it an entry in ``cases.OPS`` and its shapes in ``table.TABLE``. To add a
peer, give it an entry in ``peers.PEERS``.
"""
