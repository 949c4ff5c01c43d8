"""The probe: eyes and hands inside a training process that knows nothing of them.

Copied into an attempt's folder as `autotune_probe`, beside a `sitecustomize.py` that PYTHONPATH
leads to. Nothing here is imported that the program has not imported already, but for what this
package's own files say; each part hears of the others through `moments` alone.
"""
