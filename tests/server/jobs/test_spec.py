"""A job's request becomes what the engine is asked."""

from server.jobs.request import PromptText, TimedPrompt
from server.jobs.spec import stream_spec
from tests.server.jobs.making import request


def test_a_timed_prompt_becomes_the_first_frame_not_before_its_time() -> None:
    prompts = tuple(
        TimedPrompt(at, (PromptText(f"at {at}"),)) for at in (0.0, 0.5, 1.01, 2.0625, 3.0)
    )
    spec = stream_spec("s", request(prompts=prompts), None)
    assert spec.prompts[0].text == "at 0.0"
    assert [timed.frame for timed in spec.timed_prompts] == [8, 17, 33, 48]
    assert (spec.kind, spec.num_frames, spec.seed) == ("job", 64, 7)
