"""The contract suite of carrot.testing, run over every backend at hand."""
