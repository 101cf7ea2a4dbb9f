"""Patched builtins, values that pretend, forged answers, payloads; and at the end what must be accepted."""

# ruff: noqa: E501 - a program is read more easily on one line

from tests.verifiers.hostile import hostile

PATCHED = {
    "every_builtin": hostile(
        "import builtins\nfor k in ('isinstance', 'len', 'abs', 'all', 'any', 'eval', 'compile', 'repr', 'sorted', 'type'):\n"
        "    try: setattr(builtins, k, lambda *a, **k: True)\n    except Exception: pass\ndef solve(n): return 0",
        "ok", "error", "crashed",
    ),
    "json": hostile("import json\njson.dumps = json.JSONEncoder.encode = lambda *a, **k: '[10]'\njson.loads = lambda *a, **k: []\ndef solve(n): return 0", "ok", "error", "crashed"),
    "the_runner": hostile(
        "import gc, types\nfor o in gc.get_objects():\n    if type(o) is dict and 'call_all' in o and 'load' in o:\n"
        "        o['call_all'] = lambda calls: b'[\"ok\",[true],\"\",\"\"]\\n'\ndef solve(n): return 0"
    ),
    "the_codec": hostile("import gc\nfor o in gc.get_objects():\n    if type(o) is dict and 'WRITERS' in o: o['encode'] = lambda v: '{\"o\":\"equal\"}'\ndef solve(n): return 0"),
    "comparison": hostile("import operator, ctypes\noperator.eq = lambda a, b: True\ndef solve(n): return 0"),
    "tracing": hostile("import sys\ndef trace(frame, event, arg):\n    frame.f_locals['passed'] = True\n    return trace\nsys.settrace(trace)\nsys.setprofile(trace)\ndef solve(n): return 0", "ok", "error"),
    "import_hook": hostile("import sys\nclass F:\n    def find_spec(self, *a): raise SystemExit(0)\nsys.meta_path.insert(0, F())\nsys.modules.clear()\ndef solve(n): return 0", "ok", "error", "crashed"),
    "asserts_off": hostile("import sys, ast\nsys.flags = None\nast.parse = None\ndef solve(n): return 0"),
    "small_integers": hostile("import ctypes\ndef solve(n):\n    ctypes.memmove(id(7) + 24, id(10) + 24, 4)\n    return [7][0] - 3", "ok", "crashed", "error"),
}  # fmt: skip
_ALWAYS = "    __eq__ = __le__ = __ge__ = __contains__ = lambda *a: True\n    __ne__ = lambda *a: False\n    __hash__ = lambda s: 1\n"
SPOOFED = {
    "always_equal": hostile(f"class V:\n{_ALWAYS}def solve(n): return V()"),
    "int_subclass": hostile(f"class V(int):\n{_ALWAYS}def solve(n): return V(0)"),
    "float_subclass": hostile(f"class V(float):\n{_ALWAYS}    __float__ = lambda s: 10.0\ndef solve(n): return V(0)"),
    "str_subclass": hostile(f"class V(str):\n{_ALWAYS}def solve(n): return V('x')"),
    "list_subclass": hostile(f"class V(list):\n{_ALWAYS}    __iter__ = lambda s: iter([10])\ndef solve(n): return V()"),
    "claims_to_be_int": hostile(
        f"class V:\n    __class__ = int\n    __int__ = __index__ = lambda s: 10\n{_ALWAYS}def solve(n): return V()"
    ),
    "metaclass": hostile(
        "class M(type):\n    __instancecheck__ = __eq__ = lambda *a: True\n    __hash__ = lambda s: 1\nclass V(metaclass=M): pass\ndef solve(n): return V"
    ),
    "nan": hostile("def solve(n): return float('nan')"),
    "true_for_all": hostile("def solve(n): return True"),
    "fake_numpy": hostile(
        "import sys, types\nclass G:\n    def item(self): return True\nsys.modules['numpy'] = types.SimpleNamespace(generic=G)\ndef solve(n): return G()"
    ),
    "float_near_the_integer": hostile("def solve(n): return n * n + 1 + 1e-9"),
    "float_of_the_integer": hostile("def solve(n): return n * n + 1.0"),
    "text_of_the_integer": hostile("def solve(n): return str(n * n + 1)"),
    "fraction_near_the_integer": hostile(
        "from fractions import Fraction\ndef solve(n): return n * n + 1 + Fraction(1, 10**30)"
    ),
    "stop_iteration": hostile("def solve(n): raise StopIteration(n * n + 1)", "error"),
    "stop_iteration_of_its_own": hostile("class Stop(StopIteration): pass\ndef solve(n): raise Stop", "error"),
    "tagged_dict": hostile("def solve(n): return {'i': '0xa'}"),
    "opaque_itself": hostile("import gc\ndef solve(n): return {'o': 'int'}"),
}
_LINES = 'b\'["ok",[],"",""]\\n\' + b\'["ok",[true],"",""]\\n\' * 5'
FORGED = {
    "answers_at_import": hostile(f"import os\nos.write(3, {_LINES})\nos._exit(0)", "ok", "crashed"),
    "answers_on_every_descriptor": hostile(
        f"import os\nfor i in range(256):\n    try: os.write(i, {_LINES})\n    except OSError: pass\nos._exit(0)",
        "ok",
        "crashed",
    ),
    "answers_in_the_call": hostile(
        f"import os\ndef solve(n):\n    os.write(3, {_LINES})\n    os._exit(0)", "ok", "crashed"
    ),
    "answer_without_end": hostile("import os\nos.write(3, b'[\"ok\",[10')\nos._exit(0)", "crashed"),
    "unknown_status": hostile('import os\nos.write(3, b\'["passed",[],"",""]\\n\')\ndef solve(n): return 0', "crashed"),
    "claims_infra": hostile('import os\nos.write(3, b\'["infra",[],"",""]\\n\')\nos._exit(97)', "crashed"),
    "the_zygotes_words": hostile(
        'import os\nfor i in range(256):\n    try: os.write(i, b\'{"status": 0, "cpu": 0, "rss": 0}\\n\')\n    except OSError: pass\nos._exit(0)',
        "crashed",
    ),
    "sends_descriptors": hostile(
        'import socket\ns = socket.socket(fileno=3)\nsocket.send_fds(s, [b\'["ok",[],"",""]\\n\'], [0, 1, 2] * 20)\ndef solve(n): return 0',
        "ok",
        "error",
        "crashed",
    ),
    "reads_ahead": hostile(
        "import os\ndata = os.read(3, 1 << 20)\ndef solve(n): return data", "ok", "crashed", "wall", sleeps=True
    ),
    "closes_the_channel": hostile("import os\nos.closerange(0, 256)\ndef solve(n): return 0", "crashed", "ok"),
    "nested_json": hostile(
        "import os\nos.write(3, b'[' * 500000 + b'\\n')\ndef solve(n): return 0", "crashed", "output"
    ),
    "endless_number": hostile(
        "import os\nos.write(3, b'[\"ok\",[' + b'9' * 900000 + b'],\"\",\"\"]\\n')\ndef solve(n): return 0", "crashed"
    ),
    "colliding_keys": hostile(
        "import os\nm = 2**61 - 1\nkeys = ','.join('{\"i\":\"%x\"}' % (m * i) for i in range(1, 25000))\n"
        'os.write(3, (\'["ok",[{"s":[%s]}],"",""]\\n\' % keys).encode())\ndef solve(n): return 0',
        "crashed",
    ),
    "says_its_answer_is_large_at_import": hostile(
        'import os\nos.write(3, b\'["large",[],"",""]\\n\')\ndef solve(n): return 0', "large"
    ),
    "says_its_answer_is_large": hostile(
        'import os\nfor _ in range(3): os.write(3, b\'["large",["00"],"",""]\\n\')\ndef solve(n): return 0',
        "large",
    ),
    "says_every_status": hostile(
        "import os\nfor s in ('ok', 'error', 'memory', 'large'):\n"
        '    os.write(3, b\'["%s",[],"",""]\\n\' % s.encode())\ndef solve(n): return 0',
        "ok",
        "error",
        "memory",
        "large",
    ),
    "asks_for_what_tests_lend": hostile(
        'import os\nos.write(3, b\'["ask",[[0,"","",""]],"",""]\\n\')\ndef solve(n): return 0', "crashed"
    ),
    "not_text": hostile("import os\nos.write(3, bytes(range(256)) + b'\\n')\ndef solve(n): return 0", "crashed"),
}
PAYLOADS = {
    "reduce": hostile("class V:\n    def __reduce__(self): return (open, ('{{outside}}/payload', 'w'))\ndef solve(n): return V()"),
    "pickled_answer": hostile("import os, pickle\nclass V:\n    def __reduce__(self): return (os.system, ('touch {{outside}}/payload',))\nos.write(3, pickle.dumps(V()) + b'\\n')\ndef solve(n): return 0", "crashed"),
    "exception_with_arguments": hostile("class E(Exception):\n    def __reduce__(self): return (open, ('{{outside}}/payload', 'w'))\ndef solve(n): raise E('x')", "error"),
    "attribute_lookups": hostile("class V:\n    def __getattribute__(self, name): open('{{outside}}/payload', 'w'); return 10\ndef solve(n): return V()", "ok", "error"),
}  # fmt: skip
FAMILIES = {"patched": PATCHED, "spoofed values": SPOOFED, "forged answers": FORGED, "payloads": PAYLOADS}

_RIGHT = "\ndef solve(n): return n * n + 1"
HARMLESS = {
    "plain": hostile(_RIGHT),
    "leaves_a_daemon_thread": hostile("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()" + _RIGHT),
    "leaves_a_busy_thread": hostile("import threading\ndef spin(): pass\nfor _ in range(5): threading.Thread(target=spin).start()" + _RIGHT),
    "writes_in_its_folder": hostile("import tempfile, os\nwith tempfile.NamedTemporaryFile('w', delete=False) as f: f.write('x' * 10**6)\nopen('notes', 'w').write('x')" + _RIGHT),
    "prints_much": hostile("def solve(n):\n    print('x' * 100_000)\n    return n * n + 1"),
    "writes_to_the_descriptor": hostile("import os\nos.write(1, b'x' * 10**6)" + _RIGHT),
    "recurses_deeply": hostile("import sys\nsys.setrecursionlimit(10**6)\ndef down(k): return 0 if k == 0 else down(k - 1)\ndef solve(n):\n    down(50_000)\n    return n * n + 1"),
    "catches_its_own_timer": hostile("import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.001)" + _RIGHT),
    "runs_an_event_loop": hostile("import asyncio\nasync def work(n):\n    await asyncio.sleep(0)\n    return n * n + 1\ndef solve(n): return asyncio.run(work(n))"),
    "uses_a_thread_pool": hostile("from concurrent.futures import ThreadPoolExecutor\ndef solve(n):\n    with ThreadPoolExecutor(4) as p: return sum(p.map(lambda x: n, range(n))) + 1"),
    "handles_a_refused_fork": hostile("import os\ntry: os.fork()\nexcept OSError: pass" + _RIGHT),
    "sleeps_a_little": hostile("import time\ndef solve(n):\n    time.sleep(0.2)\n    return n * n + 1"),
    "has_a_main_block": hostile("def solve(n): return n * n + 1\nif __name__ == '__main__': raise SystemExit(3)"),
    "uses_dataclasses_and_types": hostile("from dataclasses import dataclass\nfrom typing import List, Optional\n@dataclass\nclass P:\n    x: int\n    y: Optional[List[int]] = None\ndef solve(n): return P(n * n + 1).x"),
    "patches_its_own_print": hostile("import builtins\nbuiltins.print = lambda *a: None\ndef solve(n):\n    print(n)\n    return n * n + 1"),
    "empties_the_modules": hostile("import sys\nsys.stdout = None" + _RIGHT),
    "large_memory": hostile("def solve(n):\n    a = bytearray(5 * 10**8)\n    return n * n + 1"),
}  # fmt: skip
