"""Reads an address that is not mapped."""

import ctypes
import faulthandler

faulthandler.enable()
ctypes.string_at(8)
