"""Buckets: uploads and presigned URLs (extra `publish`)."""
