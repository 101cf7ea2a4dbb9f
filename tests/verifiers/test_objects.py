"""Objects of the program in the hands of the tests: used as in one interpreter, and never left to judge themselves."""

# ruff: noqa: E501 - a program is read more easily on one line

from __future__ import annotations

from typing import Any

import pytest

from tests.support.judging import Judged

RIGHT: dict[str, tuple[str, ...]] = {
    "equal dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass f:\n    x: int\n    y: int",
        "assert f(1,2) == f(1,2)\nassert f(1,2) != f(1,3)",
    ),
    "a sum of dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass f:\n    x: int\n    def __add__(s,o): return f(s.x+o.x)",
        "assert f(1)+f(2) == f(3)",
    ),
    "ordered objects": (
        "import functools\n@functools.total_ordering\nclass f:\n    def __init__(s,x): s.x=x\n    def __lt__(s,o): return s.x<o.x\n    def __eq__(s,o): return s.x==o.x",
        "assert f(1)<f(2)\nassert [p.x for p in sorted([f(3),f(1)])]==[1,3]\nassert max(f(1),f(2)).x==2",
    ),
    "a negative": (
        "class f:\n    def __init__(s,x): s.x=x\n    def __neg__(s): return f(-s.x)",
        "assert (-f(2)).x == -2",
    ),
    "a product with a number": (
        "class f:\n    def __init__(s,x): s.x=x\n    def __mul__(s,k): return f(s.x*k)\n    __rmul__=__mul__",
        "assert (f(2)*3).x==6\nassert (3*f(2)).x==6",
    ),
    "a matrix product": (
        "class f:\n    def __init__(s,x): s.x=x\n    def __matmul__(s,o): return s.x*o.x",
        "assert f(2)@f(3)==6",
    ),
    "a container that can only be asked": (
        "class f:\n    def __init__(s,a,b): s.a,s.b=a,b\n    def __contains__(s,x): return s.a<=x<s.b",
        "assert 3 in f(1,5)\nassert 9 not in f(1,5)",
    ),
    "added to in place": (
        "class f:\n    def __init__(s): s.l=[]\n    def __iadd__(s,x):\n        s.l.append(x); return s",
        "q=f()\nq+=1\nq+=2\nassert q.l==[1,2]",
    ),
    "items that are set and deleted": (
        "class f:\n    def __init__(s): s.d={}\n    def __setitem__(s,k,v): s.d[k]=v\n    def __getitem__(s,k): return s.d[k]\n    def __delitem__(s,k): del s.d[k]\n    def __len__(s): return len(s.d)",
        "q=f()\nq['a']=1\nassert q['a']==1 and len(q)==1\ndel q['a']\nassert len(q)==0",
    ),
    "an attribute that is set": (
        "class f:\n    def __init__(s): s.v=0\n    def get(s): return s.v",
        "q=f()\nq.v=5\nassert q.get()==5 and q.v==5",
    ),
    "a property": (
        "class f:\n    def __init__(s,x): s._x=x\n    @property\n    def x(s): return s._x*2\n    @x.setter\n    def x(s,v): s._x=v",
        "q=f(2)\nassert q.x==4\nq.x=5\nassert q.x==10",
    ),
    "an instance of the class under test": (
        "class f:\n    def copy(s): return f()",
        "assert isinstance(f().copy(), f)",
    ),
    "an enumeration": (
        "import enum\nclass f(enum.Enum):\n    A=1\n    B=2",
        "assert f.A.value==1\nassert f['B'] is f.B\nassert f(1) == f.A\nassert [m.name for m in f]==['A','B']\nassert len(f)==2",
    ),
    "members of the tests' enumeration": (
        "import enum\nclass C(enum.Enum):\n    A=1\n    B=2\ndef f(x): return C.A if x else C.B",
        "assert f(1) == C.A and f(0) is C.B",
        "import enum\nclass C(enum.Enum):\n    A=1\n    B=2\n",
    ),
    "objects of the tests' class": (
        "class P:\n    def __init__(s,x): s.x=x\n    def __eq__(s,o): return isinstance(o,P) and s.x==o.x\ndef f(x): return P(x)",
        "assert f(1) == P(1)\nassert isinstance(f(1), P)\nassert f(2) != P(1)",
        "class P:\n    def __init__(s,x): s.x=x\n    def __eq__(s,o): return isinstance(o,P) and s.x==o.x\n",
    ),
    "dataclasses of the tests": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return [P(x)]",
        "assert f(1) == [P(1)]",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n",
    ),
    "a dataclass as a dict": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: list\ndef f(x): return P(x,[x])",
        "import dataclasses\nassert dataclasses.asdict(f(1)) == {'x':1,'y':[1]}",
    ),
    "a dataclass as a tuple": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return P(x)",
        "from dataclasses import astuple, fields, is_dataclass\nassert astuple(f(1)) == (1,)\nassert is_dataclass(f(1))\nassert [q.name for q in fields(f(1))]==['x']",
    ),
    "attributes in a dict": (
        "class P:\n    def __init__(s,x): s.x=x\ndef f(x): return P(x)",
        "assert vars(f(1))=={'x':1}\nassert f(1).__dict__=={'x':1}",
    ),
    "the name of a type": (
        "class P: pass\ndef f(x): return P()",
        "assert type(f(1)).__name__=='P'\nassert f(1).__class__.__name__=='P'",
    ),
    "an userdict": (
        "from collections import UserDict\nclass D(UserDict): pass\ndef f(): return D(a=1)",
        "d=f()\nassert d=={'a':1}\nassert dict(d)=={'a':1} and 'a' in d and d.get('b',3)==3 and list(d)==['a']",
    ),
    "an userlist": (
        "from collections import UserList\ndef f(): return UserList([1,2])",
        "assert f()==[1,2] and len(f())==2 and f()[0]==1",
    ),
    "an userstring": ("from collections import UserString\ndef f(): return UserString('ab')", "assert f()=='ab'"),
    "a chainmap": (
        "from collections import ChainMap\ndef f(): return ChainMap({'a':1},{'b':2})",
        "assert f()['b']==2 and dict(f())=={'a':1,'b':2}\nassert f()=={'a':1,'b':2}",
    ),
    "a mappingproxy": (
        "from types import MappingProxyType\ndef f(): return MappingProxyType({'a':1})",
        "assert f()=={'a':1}\nassert dict(f())=={'a':1}",
    ),
    "a memoryview": ("def f(): return memoryview(b'ab')", "assert bytes(f())==b'ab'\nassert f()==b'ab'"),
    "a decorator keeps name": (
        "import functools\ndef f(g):\n    @functools.wraps(g)\n    def w(*a): return g(*a)*2\n    return w",
        "@f\ndef h(x):\n    'doc'\n    return x+1\nassert h.__name__=='h' and h.__doc__=='doc'",
    ),
    "a calculation with arrays": (
        "import numpy as np\ndef f(n): return np.eye(n)",
        "import numpy as np\nassert (f(2)*2==np.array([[2,0],[0,2]])).all() and f(2).dtype==float and f(2)[0,0]==1 and f(2)[0][1]==0",
    ),
    "near arrays": (
        "import numpy as np\ndef f(n): return np.arange(n)/2",
        "import numpy as np\nassert np.allclose(f(3),[0,.5,1])\nnp.testing.assert_array_equal(f(3),np.array([0,.5,1]))\nassert np.array_equal(f(2),np.array([0,.5]))",
    ),
    "an array that is given": (
        "import numpy as np\ndef f(a): return a.T",
        "import numpy as np\nassert (f(np.array([[1,2],[3,4]]))==np.array([[1,3],[2,4]])).all()",
    ),
    "matches": ("import re\ndef f(s): return re.finditer('a', s)", "assert [m.start() for m in f('aba')]==[0,2]"),
    "a coroutine": ("async def f(x): return x+1", "import asyncio\nassert asyncio.run(f(1))==2"),
    "an asynchronous generator": (
        "async def f(n):\n    for i in range(n): yield i",
        "import asyncio\nasync def go(): return [i async for i in f(3)]\nassert asyncio.run(go())==[0,1,2]",
    ),
    "coroutines together": (
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x*2",
        "import asyncio\nasync def go():\n    return await asyncio.gather(f(1),f(2))\nassert asyncio.run(go())==[2,4]",
    ),
    "a generator by its type": ("def f(n):\n    yield n", "import types\nassert isinstance(f(1), types.GeneratorType)"),
    "a path": (
        "from pathlib import PurePosixPath\ndef f(p): return PurePosixPath(p)",
        "assert str(f('a/b'))=='a/b' and f('a/b').name=='b'\nfrom pathlib import PurePosixPath\nassert f('a')==PurePosixPath('a')",
    ),
    "an uuid": (
        "import uuid\ndef f(s): return uuid.UUID(s)",
        "import uuid\nassert f('12345678123456781234567812345678')==uuid.UUID('12345678123456781234567812345678')",
    ),
    "an ipaddress": (
        "import ipaddress\ndef f(s): return ipaddress.ip_address(s)",
        "assert str(f('1.2.3.4'))=='1.2.3.4'\nimport ipaddress\nassert f('1.2.3.4')==ipaddress.ip_address('1.2.3.4')",
    ),
    "what is printed": (
        "def f(x): print(x*2)",
        "import io, contextlib\nb=io.StringIO()\nwith contextlib.redirect_stdout(b):\n    f(2)\nassert b.getvalue()=='4\\n'",
    ),
    "what is put in": (
        "def f(): return int(input())+1",
        "from unittest.mock import patch\nwith patch('builtins.input', return_value='4'):\n    assert f()==5",
    ),
    "what is written": (
        "import sys\ndef f(): sys.stdout.write('hi')",
        "import io, sys\nold=sys.stdout\nsys.stdout=b=io.StringIO()\nf()\nsys.stdout=old\nassert b.getvalue()=='hi'",
    ),
    "the cause of an exception": (
        "def f():\n    try:\n        1/0\n    except ZeroDivisionError as e:\n        raise RuntimeError('x') from e",
        "try:\n    f()\n    assert False\nexcept RuntimeError as e:\n    assert isinstance(e.__cause__, ZeroDivisionError)",
    ),
    "an exit": (
        "import sys\ndef f(): sys.exit(3)",
        "try:\n    f()\n    assert False\nexcept SystemExit as e:\n    assert e.code==3",
    ),
    "a list of own objects": (
        "class P:\n    def __init__(s,x): s.x=x\ndef f(n): return [P(i) for i in range(n)]",
        "assert [p.x for p in f(3)]==[0,1,2]\nassert f(2)[1].x==1",
    ),
    "a dict of own objects": (
        "class P:\n    def __init__(s,x): s.x=x\ndef f(n): return {i:P(i) for i in range(n)}",
        "assert f(3)[2].x==2\nassert sorted(k for k,v in f(2).items() if v.x)==[1]",
    ),
    "a tuple of objects": (
        "class P:\n    def __init__(s,x): s.x=x\n    def dbl(s): return P(s.x*2)\ndef f(n): return (P(n),P(n+1))",
        "a,b=f(1)\nassert a.x==1 and b.dbl().x==4",
    ),
    "a dict views eq": ("def f(d): return d.keys()", "assert f({'a':1})=={'a'}"),
    "a dict items eq": (
        "def f(d): return d.items()",
        "assert set(f({'a':1}))=={('a',1)}\nassert f({'a':1})=={'a':1}.items()",
    ),
    "an ellipsis": ("def f(): return ...", "assert f() is ..."),
    "a notimplemented": ("def f(): return NotImplemented", "assert f() is NotImplemented"),
    "a type returned": ("def f(x): return type(x)", "assert f(1) is int\nassert f('') == str"),
    "objects in a set": (
        "class f:\n    def __init__(s,x): s.x=x\n    def __eq__(s,o): return s.x==o.x\n    def __hash__(s): return hash(s.x)",
        "assert len({f(1),f(1),f(2)})==2",
    ),
    "a metaclass singleton": (
        "class M(type):\n    _i={}\n    def __call__(c,*a):\n        if c not in M._i: M._i[c]=super().__call__(*a)\n        return M._i[c]\nclass f(metaclass=M): pass",
        "assert f() is f()",
    ),
    "a slots": (
        "class f:\n    __slots__=('x','y')\n    def __init__(s,x,y): s.x,s.y=x,y\n    def __eq__(s,o): return (s.x,s.y)==(o.x,o.y)",
        "assert f(1,2)==f(1,2)\nassert f(1,2).y==2",
    ),
    "an object as a number": (
        "class f:\n    def __init__(s,x): s.x=x\n    def __int__(s): return s.x\n    def __index__(s): return s.x\n    def __round__(s,n=0): return s.x",
        "assert int(f(3))==3 and [0,1,2,9][f(3)]==9 and round(f(4))==4 and hex(f(10))=='0xa'",
    ),
    "a format": (
        "class f:\n    def __format__(s,spec): return 'F'+spec",
        "assert f'{f():x}'=='Fx'\nassert '{:>3}'.format(f())=='F>3'",
    ),
    "a reversed class": (
        "class f:\n    def __reversed__(s): return iter([3,2])\n    def __iter__(s): return iter([2,3])",
        "assert list(reversed(f()))==[3,2] and list(f())==[2,3]",
    ),
    "a docstring": ("def f(x):\n    '''doc'''\n    return x", "assert f.__doc__=='doc' and f.__name__=='f'"),
    "a closure counter": (
        "def f():\n    c=0\n    def g():\n        nonlocal c\n        c+=1\n        return c\n    return g",
        "g=f()\nassert g()==1 and g()==2",
    ),
    "a memoize": (
        "def f(g):\n    c={}\n    def w(*a):\n        if a not in c: c[a]=g(*a)\n        return c[a]\n    return w",
        "calls=[]\ndef h(x):\n    calls.append(x)\n    return x*x\nm=f(h)\nassert m(3)==9 and m(3)==9 and calls==[3]",
    ),
    "a re match": (
        "import re\ndef f(s): return re.match(r'(\\d+)-(\\d+)', s)",
        "m=f('12-34')\nassert m.group(1)=='12' and m.groups()==('12','34') and m[2]=='34' and m.span()==(0,5)\nassert f('x') is None\nassert f('1-2')",
    ),
    "a protocol typing generics": (
        "from typing import Generic, TypeVar\nT=TypeVar('T')\nclass f(Generic[T]):\n    def __init__(s): s.i=[]\n    def push(s,x:T): s.i.append(x)\n    def pop(s)->T: return s.i.pop()",
        "s=f()\ns.push(1)\ns.push(2)\nassert s.pop()==2\nq=f[int]()\nq.push(3)\nassert q.pop()==3",
    ),
    "a threads lock": (
        "import threading\nclass f:\n    def __init__(s): s.n=0; s.l=threading.Lock()\n    def inc(s):\n        with s.l: s.n+=1",
        "import threading\nq=f()\nt=[threading.Thread(target=q.inc) for _ in range(8)]\n[x.start() for x in t]\n[x.join() for x in t]\nassert q.n==8",
    ),
    "an unittest": (
        "def f(x): return x+1",
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(f(1),2)\n    def test_b(self): self.assertAlmostEqual(f(1.0),2.0)\nr=unittest.TestResult()\nunittest.defaultTestLoader.loadTestsFromTestCase(T).run(r)\nassert r.wasSuccessful() and r.testsRun==2",
    ),
}
"""Programs, tests, and prompts whose classes both have."""


def suites(test: str, prompt: str = "") -> list[dict[str, Any]]:
    lines = "".join(f"    {line}\n" for line in test.split("\n"))
    known = {"entry_point": "f", "prompt": prompt}
    return [{**known, "asserts": [test]}, {**known, "check": f"def check(candidate):\n{lines}"}]


@pytest.mark.parametrize("name", RIGHT)
async def test_objects_are_used_as_if_all_were_one_program(name: str, judged: Judged) -> None:
    program, *test = RIGHT[name]
    for suite in suites(*test):
        verdict = await judged(program, suite)
        assert verdict.passed, verdict


ALL = """
class All:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __mul__ = __truediv__ = __mod__ = __xor__ = __sub__
    def __abs__(self): return 0
def f(x): return All()
"""
CLASS = "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return type(other) is P and self.x == other.x\n"
WRONG: dict[str, tuple[str, str]] = {
    "everything: assert f(2)==4": (ALL, "assert f(2)==4"),
    "everything: assert f(2)/4==1": (ALL, "assert f(2)/4==1"),
    "everything: assert f(2)%4==1": (ALL, "assert f(2)%4==1"),
    "everything: assert f(2)<=4<=f(2)": (ALL, "assert f(2)<=4<=f(2)"),
    "everything: assert {4}=={f(2)}": (ALL, "assert {4}=={f(2)}"),
    "everything: assert f(2)==f(3)+4": (ALL, "assert f(2)==f(3)+4"),
    "everything: assert f(2)+0==4": (ALL, "assert f(2)+0==4"),
    "enum equals": (
        "import enum\nclass E(enum.Enum):\n    A=1\n    def __eq__(s,o): return True\n    __hash__=None\ndef f(x): return E.A",
        "assert f(1)==4",
    ),
    "intenum equals": (
        "import enum\nclass E(enum.IntEnum):\n    A=1\n    def __eq__(s,o): return True\n    __hash__=int.__hash__\ndef f(x): return E.A",
        "x=f(1)\nassert x==4",
    ),
    "userdict lies": (
        "from collections import UserDict\nclass D(UserDict):\n    def __eq__(s,o): return True\ndef f(x): return D()",
        "assert f(1)=={'a':1}",
    ),
    "str with methods": (
        "class S(str):\n    def go(s): pass\n    def __eq__(s,o): return True\n    def __hash__(s): return 1\ndef f(x): return S('no')",
        "assert f(1)=='yes'",
    ),
    "str methods lower": (
        "class S(str):\n    def go(s): pass\n    def lower(s): return 'yes'\ndef f(x): return S('no')",
        "assert f(1)=='yes'",
    ),
    "list with methods": (
        "class L(list):\n    def go(s): pass\n    def __iter__(s): return iter([4])\n    def __len__(s): return 1\n    def __eq__(s,o): return True\ndef f(x): return L([5])",
        "assert f(1)==[4]",
    ),
    "class always equal": (
        "class f:\n    def __init__(s,*a): pass\n    def __eq__(s,o): return True\n    def __add__(s,o): return s",
        "assert f(1)+f(2)==f(3)",
    ),
    "mirror class lies": (
        "class P:\n    def __init__(s,x): s.x=x\n    def __eq__(s,o): return True\ndef f(x): return P(9)",
        "assert f(1)==P(1)",
    ),
    "mirror class lies swapped": (
        "class P:\n    def __init__(s,x): s.x=x\n    def __eq__(s,o): return True\ndef f(x): return P(9)",
        "assert P(1)==f(1)",
    ),
    "hash collisions set": (
        "class H:\n    def __hash__(s): return 1\n    def __eq__(s,o): return True\ndef f(x): return H()",
        "assert len({f(1),f(2)})==2",
    ),
    "numpy allclose empty": (
        "import numpy as np\ndef f(x): return np.array([])",
        "import numpy as np\nassert np.allclose(f(1),[4.0])",
    ),
    "numpy broadcast": (
        "import numpy as np\ndef f(x): return np.array([4])",
        "import numpy as np\nassert (f(1)==np.array([4,4])).all()",
    ),
    "numpy object": (
        "import numpy as np\nclass A:\n    def __eq__(s,o): return True\n    def __sub__(s,o): return 0\ndef f(x): return np.array([A()],dtype=object)",
        "import numpy as np\nassert (f(1)==np.array([4])).all()",
    ),
    "print forged": (
        "def f(x): print('wrong')",
        "import io,contextlib\nb=io.StringIO()\nwith contextlib.redirect_stdout(b):\n    f(1)\nassert b.getvalue()=='2\\n'",
    ),
    "stop in dict": (
        "def f(x): raise StopIteration",
        "d=dict(map(lambda v:(v,f(v)),[1]))\nassert all(d[k]==2 for k in d)",
    ),
    "stopasync": (
        "class S(StopAsyncIteration): pass\ndef f(x): raise S",
        "async def g():\n    yield f(1)\nimport asyncio\nasync def h(): return [x async for x in g()]\nassert asyncio.run(h())==[]",
    ),
    "lent type eq": (
        "def f(n):\n    type(n).__eq__=lambda a,b: True\n    return n",
        "class N: pass\na,b=N(),N()\nassert f(a)==b",
    ),
    "await lies": (
        "class A:\n    def __await__(s):\n        yield\n        return 0\ndef f(x): return A()",
        "import asyncio\nasync def g(): return await f(1)\nassert asyncio.run(g())==4",
    ),
    "empty iter items": (
        "class L:\n    def __iter__(s): return iter(())\n    def __len__(s): return 3\ndef f(x): return L()",
        "for got,want in zip(f(1),[1,2,3]):\n    assert got==want\nassert len(f(1))==3 and list(f(1))==[1,2,3]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_no_object_judges_itself(name: str, judged: Judged) -> None:
    program, test = WRONG[name]
    for suite in suites(test, CLASS if "class P" in program else ""):
        verdict = await judged(program, suite)
        assert verdict.passed is False, verdict
        assert verdict.details["kind"] != "infra"
