"""The version, for those who must not import the package root."""

VERSION = "0.2.0.dev0"
