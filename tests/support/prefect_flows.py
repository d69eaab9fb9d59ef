"""Flows for tests of the Prefect tasks: what they do is said by their parameters, so that one is served for many."""

import json

HEAD = """
import asyncio
from prefect import flow, get_run_logger, task
from prefect_mlproj import ProjectResult, cancel_runs, run_project, submit_project, wait_for_project

PROJECT, MARKS = {project!r}, {marks!r}

def step(name, detach=False, **parameters):
    config = {{"grace": 1.0, **({{"detach": True}} if detach else {{}})}}
    given = {{"mark": f"{{MARKS}}/{{name}}", **parameters}}
    return {{"uri": PROJECT, "env_manager": "local", "backend_config": config, "parameters": given}}
"""

ROADS = """
@flow(name={name!r}{options})
def main(road: str, steps: list, retries: int = 0):
    run = run_project.with_options(retries=retries, retry_delay_seconds=0)
    wanted = [step(**one) for one in steps]
    if road == "direct":
        return [run(**one).run_id for one in wanted]
    if road == "submitted":
        return [future.result().run_id for future in [run.submit(**one) for one in wanted]]
    if road == "waited for":
        return [wait_for_project(one).run_id for one in [submit_project(**one) for one in wanted]]
    if road == "in a thread":
        @task
        def inner():
            return [run(**one).run_id for one in wanted]
        return inner.submit().result()
    raise ValueError(road)
"""

ASYNC_ROADS = """
@flow(name={name!r}{options})
async def main(road: str, steps: list, retries: int = 0):
    run = run_project.with_options(retries=retries, retry_delay_seconds=0)
    wanted = [step(**one) for one in steps]
    if road == "async":
        return [(await run(**one)).run_id for one in wanted]
    if road == "gathered":
        return [one.run_id for one in await asyncio.gather(*(run(**one) for one in wanted))]
    raise ValueError(road)
"""

CALL = """
if __name__ == "__main__":
    import sys
    given = __import__("json").loads({given!r})
    try:
        result = main(**given)
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    except BaseException as error:
        print("main ended with", type(error).__name__)
        sys.exit(1)
"""


def head(steps):
    """The beginning of a flow's file: imports, and `step(NAME, **PARAMETERS)`, the arguments that run a step."""
    return HEAD.format(project=str(steps.project), marks=str(steps.marks))


def roads(steps, name, options="", is_async=False):
    """A flow that runs its steps in one of several ways."""
    flow = (ASYNC_ROADS if is_async else ROADS).format(name=name, options=options and f", {options}")
    return head(steps) + flow


def called(text, **given):
    """The same as a program that calls it."""
    return text + CALL.format(given=json.dumps(given))
