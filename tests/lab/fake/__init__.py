"""Boards played from files: trees of /sys, /proc and /etc, and stand-ins for the vendors' programs."""
