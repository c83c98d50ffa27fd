"""The battery: every method on real pools that differ in kind, in settings that differ in what is wrong with them."""
