"""Rows and folders of a user's: the documented data folder, and sources of any supported file format.

Everything here is read and checked, nothing is embedded.
"""
