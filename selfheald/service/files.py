"""The file of a service, for the service manager of this machine."""

from __future__ import annotations

from selfheald.service.order import Order
from selfheald.service.shipped import UNIT_OF_SYSTEM, UNIT_OF_USER, template
from selfheald.service.unit_text import unit_text


def file_for(order: Order) -> str:
    """The whole text. Raises ``config_invalid`` for a path that no such file can name."""
    return unit_text(template(UNIT_OF_SYSTEM if order.given.system else UNIT_OF_USER), order)
