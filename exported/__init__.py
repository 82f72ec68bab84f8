"""Networks outside of their own code: ONNX files and torch.export programs that take raw frames. docs/export.md has
the contract."""
