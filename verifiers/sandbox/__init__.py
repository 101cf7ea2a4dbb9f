"""Runs programs that nobody vouches for: isolated, limited in CPU time, answering in plain data alone.

The program's process never sees an expected value, and nothing it says is believed but the values of its calls, in
the strict format of `codec`. See `pool.Sandbox`.
"""

from tts.verifiers.sandbox.codec import Opaque as Opaque
from tts.verifiers.sandbox.isolation import isolation_report as isolation_report
from tts.verifiers.sandbox.jobs import Call as Call
from tts.verifiers.sandbox.jobs import CaseResult as CaseResult
from tts.verifiers.sandbox.jobs import Isolation as Isolation
from tts.verifiers.sandbox.jobs import Job as Job
from tts.verifiers.sandbox.jobs import JobResult as JobResult
from tts.verifiers.sandbox.jobs import Limits as Limits
from tts.verifiers.sandbox.jobs import SandboxError as SandboxError
from tts.verifiers.sandbox.pool import Sandbox as Sandbox
from tts.verifiers.sandbox.programs import Program as Program
