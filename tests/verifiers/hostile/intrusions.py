"""Processes, files, secrets, network, the kernel."""

# ruff: noqa: E501 - a program is read more easily on one line

from tests.verifiers.hostile import hostile

PROCESSES = {
    "fork_bomb": hostile("import os\nwhile True: os.fork()", "error"),
    "stubborn_fork_bomb": hostile("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "cpu"),
    "daemon": hostile(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(10**6)\n    os._exit(0)\ndef solve(n): return 0",
        "error",
    ),
    "subprocess": hostile(
        "import subprocess\ndef solve(n): return subprocess.check_output(['/bin/echo', '10'])", "error"
    ),
    "shell": hostile("import os\ndef solve(n): return os.system('touch {{outside}}/shell; sleep 1000 &')"),
    "multiprocessing": hostile(
        "import multiprocessing as m\ndef solve(n):\n    with m.Pool(2) as p: return p.map(abs, [n])", "error"
    ),
    "becomes_a_shell": hostile("import os\ndef solve(n): os.execv('/bin/sh', ['sh', '-c', 'echo 10'])", "error"),
    "spawn": hostile(
        "import os\ndef solve(n): return os.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 1000'], {})", "error"
    ),
    "raw_fork": hostile(
        "import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return [l.syscall(k, 17, 0, 0, 0, 0) for k in (56, 57, 58)]"
    ),
    "clone3": hostile(
        "import ctypes\nl = ctypes.CDLL(None)\na = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)\ndef solve(n): return l.syscall(435, a, 88)"
    ),
    "thread_bomb": hostile(
        "import threading, time\ndef solve(n):\n    while True: threading.Thread(target=time.sleep, args=(1000,)).start()",
        "error",
        "memory",
    ),
}
FILES = {
    "writes_outside": hostile("open('{{outside}}/written', 'w').write('x')\ndef solve(n): return 0", "error"),
    "writes_everywhere": hostile(
        "import os\ndef solve(n):\n    done = []\n    for place in ('/', '/etc', '/usr', '/usr/lib', '/root', '/home', '/var/tmp', '/dev', '/dev/shm', '/run', '/python', '/packages/0'):\n"
        "        try:\n            open(place + '/tts-hostile', 'w').close(); done.append(place)\n        except OSError: pass\n    return done"
    ),
    "through_a_link": hostile(
        "import os\nos.symlink('{{outside}}', 'link')\nopen('link/written', 'w').write('x')\ndef solve(n): return 0",
        "error",
    ),
    "up_and_out": hostile(
        "import os\nfor _ in range(30): os.chdir('..')\ndef solve(n): return open('.{{outside}}/seen').read()", "error"
    ),
    "deletes": hostile(
        "import shutil\nshutil.rmtree('{{outside}}', ignore_errors=True)\nshutil.rmtree('/usr/share/doc/tts-none', ignore_errors=True)\ndef solve(n): return 0"
    ),
    "poisons_the_library": hostile(
        "import json\nopen(json.__file__, 'a').write('raise SystemExit')\ndef solve(n): return 0", "error"
    ),
    "poisons_packages": hostile(
        "import sys\nopen(sys.path[-1] + '/x.pth', 'w').write('import os; os._exit(0)')\ndef solve(n): return 0",
        "error",
    ),
    "huge_file": hostile("def solve(n):\n    with open('huge', 'wb') as f: f.truncate(1 << 45)", "error"),
    "undeletable_folder": hostile(
        "import os\nfor _ in range(300):\n    os.mkdir('d'); os.chmod('d', 0o700) if 0 else None; os.chdir('d')\nos.mkdir('e', 0)\ndef solve(n): return 0"
    ),
    "spoils_the_folder": hostile("import os\nos.chmod('/tmp', 0)\ndef solve(n): return 0"),
    "every_inode": hostile(
        "import itertools\ndef solve(n):\n    for i in itertools.count(): open(str(i), 'w').close()", "error", "cpu"
    ),
    "device": hostile(
        "import os, stat\nos.mknod('disk', 0o666 | stat.S_IFBLK, os.makedev(254, 0))\ndef solve(n): return 0", "error"
    ),
    "set_uid": hostile(
        "import os, shutil\nshutil.copy('/bin/true', 'su')\nos.chmod('su', 0o6755)\nos.setuid(0)\ndef solve(n): return 0",
        "error",
    ),
    "changes_modes_outside": hostile("import os\nos.chmod('{{outside}}', 0o777)\ndef solve(n): return 0", "error"),
}
SECRETS = {
    "environment": hostile("import os\ndef solve(n): return dict(os.environ)"),
    "process_environment": hostile("def solve(n): return open('/proc/self/environ').read()", "error"),
    "all_processes": hostile(
        "import os\ndef solve(n): return [open('/proc/%s/cmdline' % p).read() for p in os.listdir('/proc') if p.isdigit()]",
        "error",
    ),
    "passwords": hostile("def solve(n): return open('/etc/passwd').read()", "error"),
    "host_files": hostile("def solve(n): return open('{{outside}}/seen').read()", "error"),
    "host_name": hostile("import os\ndef solve(n): return os.listdir('/home') + os.listdir('/root')", "error"),
    "frames": hostile(
        "import sys\ndef solve(n):\n    found, frame = [], sys._getframe()\n    while frame:\n"
        "        found += [repr(v) for v in {**frame.f_globals, **frame.f_locals}.values()]\n        frame = frame.f_back\n"
        "    return [t for t in found if '{{secret}}' in t]"
    ),
    "all_objects": hostile(
        "import gc\ndef solve(n):\n    return [o for o in gc.get_objects() if type(o) in (list, tuple) and {10, 145} & {x for x in o if type(x) is int}][:1]"
    ),
    "raw_memory": hostile(
        "import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return l.process_vm_readv(1, None, 0, None, 0, 0)"
    ),
    "descriptors": hostile(
        "import os\ndef solve(n):\n    return [os.readlink('/proc/self/fd/%d' % i) for i in range(3, 100)]", "error"
    ),
    "reads_every_descriptor": hostile(
        "import os\ndef solve(n):\n    found = []\n    for i in range(4, 1000):\n        try: os.set_blocking(i, False); found.append(os.read(i, 9))\n"
        "        except OSError: pass\n    return found"
    ),
}
NETWORK = {
    "connects": hostile("import socket\ndef solve(n): socket.create_connection(('127.0.0.1', {{port}}), 1)", "error"),
    "listens": hostile("import socket\ndef solve(n): socket.socket().bind(('127.0.0.1', 0))", "error"),
    "resolves": hostile("import socket\ndef solve(n): return socket.gethostbyname('localhost')", "ok", "error"),
    "unix_socket": hostile(
        "import socket\ndef solve(n): socket.socket(socket.AF_UNIX).connect('\\0{{secret}}')", "error"
    ),
    "netlink": hostile("import socket\ndef solve(n): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", "error"),
    "fetches": hostile(
        "import urllib.request\ndef solve(n): return urllib.request.urlopen('http://127.0.0.1:{{port}}', timeout=1).read()",
        "error",
    ),
    "raw_system_call": hostile(
        "import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return [l.syscall(41, f, 1, 0) for f in range(1, 46)]"
    ),
}


def _calls(*numbers: int) -> str:
    return (
        "import ctypes, platform\nl = ctypes.CDLL(None, use_errno=True)\n"
        f"def solve(n): return [l.syscall(k, 0, 0, 0, 0, 0, 0) for k in {numbers}]"
    )


KERNEL = {
    "ptrace": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return [l.ptrace(16, p, 0, 0) for p in range(1, 100)]"),
    "new_namespaces": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return [l.unshare(1 << b) for b in (17, 26, 27, 28, 29, 30)]"),
    "namespaced_clone": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return l.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)"),
    "mounts": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return l.mount(b'proc', b'/tmp', b'proc', 0, None)"),
    "remounts": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return l.mount(b'', b'/', b'', 32 | 4096, None)"),
    "unmounts": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return [l.umount2(p, 2) for p in (b'/usr', b'/python', b'/tmp', b'/')]"),
    "new_root": hostile("import os\ndef solve(n): os.chroot('/tmp')", "error"),
    "keys_and_kernel_interfaces": hostile(_calls(248, 249, 250, 298, 321, 323, 425, 426, 427, 434, 438)),
    "modules_and_reboot": hostile(_calls(169, 175, 176, 246, 313, 320)),
    "system_v_objects": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return [l.shmget(0x7735, 4096, 0o1666), l.msgget(0x7735, 0o1666), l.semget(0x7735, 1, 0o1666)]"),
    "message_queue": hostile("import ctypes\nl = ctypes.CDLL(None)\ndef solve(n): return l.syscall(240, b'tts-hostile', 0o102, 0o666, 0)"),
    "shared_memory": hostile("from multiprocessing import shared_memory\ndef solve(n): return shared_memory.SharedMemory('tts-hostile', True, 4096).name", "error"),
    "capabilities": hostile("import ctypes\nl = ctypes.CDLL(None)\nh = (ctypes.c_uint32 * 2)(0x20080522, 0)\nd = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)\ndef solve(n): return l.capset(h, d)"),
    "root": hostile("import os\ndef solve(n): os.setresuid(0, 0, 0); open('/usr/tts-hostile', 'w')", "error"),
    "another_architecture": hostile(
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\ndef solve(n): return f()",
        "crashed", "ok",
    ),
    "unknown_numbers": hostile(_calls(463, 464, 470, 500, 1000, 0x40000000 + 41, 2**31 - 1), "ok", "crashed"),
}  # fmt: skip
CLOCK = {
    "sets_the_clock": hostile("import time\ndef solve(n): time.clock_settime(time.CLOCK_REALTIME, 0)", "error"),
    "raw_clock": hostile(
        "import ctypes\nl = ctypes.CDLL(None)\nv = (ctypes.c_long * 2)()\ndef solve(n): return [l.syscall(k, *a) for k, a in ((227, (0, v)), (164, (v, 0)), (159, (v,)))]"
    ),
    "patched_clocks": hostile(
        "import time\nfor k in ('time', 'monotonic', 'process_time', 'perf_counter'): setattr(time, k, lambda: 0.0)\ndef solve(n):\n    while True: pass",
        "cpu",
    ),
}
FAMILIES = {
    "processes": PROCESSES, "files": FILES, "secrets": SECRETS, "network": NETWORK, "kernel": KERNEL, "clock": CLOCK,
}  # fmt: skip
