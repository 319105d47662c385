"""Streams of samples, samplers, and the views that methods request.

Imports neither recipes nor methods.
"""

from foundation import deferred, moved

moved.install()
deferred.install()
