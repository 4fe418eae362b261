"""The networks that faults are planted into, by their names."""

from __future__ import annotations

import plants_cleanrl
import plants_explicit
import plants_reference

BASES = {each.name: each for each in (plants_reference.BASE, plants_cleanrl.BASE, plants_explicit.BASE)}
REFERENCE = plants_reference.BASE
