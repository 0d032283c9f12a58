"""What users get wrong, each a function that does it; docs/reference/misuse.rst lists them."""
