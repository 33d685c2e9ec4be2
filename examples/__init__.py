"""Programs that use torchsoftmax on real input."""
