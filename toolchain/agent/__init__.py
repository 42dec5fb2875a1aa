"""The device side: runs on the board under its own Python. Python 3.6 syntax; standard library, numpy and the runtime only.

Travels as one zip file under the name `edge_agent` (device/agent_package.py): it imports itself relatively, nothing else of ours.
"""
