"""The version of the package, for those of its parts that the package itself imports."""

VERSION = "0.2.0"
