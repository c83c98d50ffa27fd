"""The documentation site: pages made of the code and the results, and the build (`python -m website`)."""
