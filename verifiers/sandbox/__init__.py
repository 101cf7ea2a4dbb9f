"""Runs untrusted programs: isolated, limited in CPU time, and answering in plain data alone.

The program's process never sees an expected value, and the judge believes nothing it says but the values of its
calls, in the strict format of `codec`. Start with `Sandbox`.
"""

from tts.verifiers.sandbox.child.codec import Opaque as Opaque
from tts.verifiers.sandbox.child.codec import decode as decode
from tts.verifiers.sandbox.child.codec import digest as digest
from tts.verifiers.sandbox.child.codec import encode as encode
from tts.verifiers.sandbox.child.codec import few_alike as few_alike
from tts.verifiers.sandbox.child.codec import is_plain as is_plain
from tts.verifiers.sandbox.pool import Sandbox as Sandbox
from tts.verifiers.sandbox.running import RunningProgram as RunningProgram
from tts.verifiers.sandbox.types import CaseResult as CaseResult
from tts.verifiers.sandbox.types import Invocation as Invocation
from tts.verifiers.sandbox.types import Isolation as Isolation
from tts.verifiers.sandbox.types import Job as Job
from tts.verifiers.sandbox.types import JobResult as JobResult
from tts.verifiers.sandbox.types import ProgramLimits as ProgramLimits
from tts.verifiers.sandbox.types import SandboxError as SandboxError
from tts.verifiers.sandbox.worker import isolation_report as isolation_report
