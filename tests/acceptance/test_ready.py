from __future__ import annotations
from pathlib import Path
from processes import *
import time
def test_x(selfheald, root, complete):
    a = root/"a"; a.mkdir()
    t=time.monotonic()
    with selfheald.daemon(root) as d:
        print("ready", time.monotonic()-t); t=time.monotonic()
        selfheald.ok("wait", a); print("wait1", time.monotonic()-t); t=time.monotonic()
        complete(root/"b"); print("finished", time.monotonic()-t);t=time.monotonic()
        wait_until_marked(root/"b"/NAME); print("adopt", time.monotonic()-t);t=time.monotonic()
        change(root/"b"/NAME, "drop table int_employee_benefits"); wait_for(lambda: digests(root/"b"/NAME).get("int_employee_benefits")); print("graft", time.monotonic()-t)
        for l in d.log_lines(): print(l["timestamp"], l["level"], l["event"], l["message"], l["database"] and l["database"][-30:])
