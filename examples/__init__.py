"""Networks and scripts that show nmcompile at work; nothing in the package depends on them."""
