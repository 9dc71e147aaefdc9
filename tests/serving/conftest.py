import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from starlette.testclient import TestClient

from reelm.serving.app import make_app
from reelm.serving.job_store import JobStore
from reelm.serving.jobs import Jobs
from reelm.serving.limits import Limits


@pytest.fixture
def make_jobs(debug_generator, played_generator, tmp_path):
    """Makes the jobs of a server of two tiny models in one folder, again and again, and closes the last ones."""
    made = []

    def make(**limits):
        if made:
            made.pop().close()
        generators = {"debug": debug_generator, "played": played_generator}
        made.append(Jobs(generators, JobStore(tmp_path / "clips"), Limits(**limits)))
        return made[-1]

    yield make
    for jobs in made:
        jobs.close()


@pytest.fixture
def client(make_jobs):
    """A client of the application."""
    app = make_app(make_jobs(), hosts=("testserver",))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.jobs = app.state.jobs
        yield client
