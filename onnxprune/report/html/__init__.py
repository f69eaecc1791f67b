"""The HTML report: one file with pictures, readable offline."""
