"""One layer for files: locations on any pyarrow file system, artifacts with manifests, row tables and journals.

Everything above reads and writes through this package, so that a local folder, NFS, S3 and GCS behave alike.
"""
