"""The videos API, without a browser."""

import json
import time

import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect

from reelm.generation.session import SessionState
from reelm.generation.video import Video
from reelm.media.reader import read_clip
from reelm.serving.sockets import HEADER, SocketPlayer


def wait(client, identity, status="completed"):
    for _ in range(3000):
        found = client.get(f"/v1/videos/{identity}").json()
        if found["status"] in ("completed", "failed"):
            assert found["status"] == status, found
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def ask(client, path="/v1/videos", **values):
    answer = client.post(path, json={"prompt": "a red ball", "guidance_scale": 1.0, "num_frames": 9} | values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def clip_of(client, identity, tmp_path, form="mp4"):
    answer = client.get(f"/v1/videos/{identity}/content", params={"format": form})
    assert answer.status_code == 200, answer.text
    path = tmp_path / f"{identity}.{'safetensors' if form == 'session' else form}"
    path.write_bytes(answer.content)
    return path


def test_a_clip_is_that_of_generate_in_every_form(client, debug_generator, tmp_path):
    job = ask(client, seed=7)
    assert job["object"] == "video" and job["status"] in ("queued", "in_progress") and job["size"] == "48x32"
    done = wait(client, job["id"])
    assert (done["progress"], done["num_frames"], done["seconds"], done["error"]) == (100, 9, "1.125", None)
    alone = debug_generator.generate("a red ball", seed=7, num_frames=9, guidance_scale=1.0)
    video = Video.load(clip_of(client, job["id"], tmp_path))
    assert np.array_equal(video.tokens, alone.tokens) and video.seed == 7 and video.prompt == "a red ball"
    session = SessionState.load(clip_of(client, job["id"], tmp_path, "session"))
    assert np.array_equal(session.tokens_thw.numpy(), alone.tokens)
    for form, start in (("gif", b"GIF8"), ("webp", b"RIFF")):
        assert clip_of(client, job["id"], tmp_path, form).read_bytes().startswith(start)
    part = client.get(f"/v1/videos/{job['id']}/content", headers={"range": "bytes=4-7"})
    assert part.status_code == 206 and part.content == b"ftyp"


def test_clips_are_listed_and_deleted(client):
    ids = [ask(client, seed=n)["id"] for n in range(3)]
    listed = client.get("/v1/videos", params={"limit": 2}).json()
    assert [each["id"] for each in listed["data"]] == [ids[2], ids[1]] and listed["has_more"]
    rest = client.get("/v1/videos", params={"after": listed["last_id"]}).json()
    assert [each["id"] for each in rest["data"]] == [ids[0]] and not rest["has_more"]
    for identity in ids:
        assert client.delete(f"/v1/videos/{identity}").json()["deleted"]
        assert client.get(f"/v1/videos/{identity}").status_code == 404
        assert client.delete(f"/v1/videos/{identity}").status_code == 404
    assert client.get("/v1/videos").json()["data"] == []
    for _ in range(300):
        if not any(path.name.startswith("video_") for path in client.jobs.store.uploads.parent.iterdir()):
            break
        time.sleep(0.01)
    else:
        raise AssertionError("the files are still there")


def test_a_clip_is_continued_whole_or_from_any_picture(client, debug_generator, tmp_path):
    first = ask(client, seed=7)["id"]
    wait(client, first)
    whole = debug_generator.generate("a red ball", seed=7, num_frames=17, guidance_scale=1.0)
    longer = ask(client, f"/v1/videos/{first}/extend", num_frames=8)["id"]
    wait(client, longer)
    assert np.array_equal(Video.load(clip_of(client, longer, tmp_path)).tokens, whole.tokens)
    other = ask(client, f"/v1/videos/{first}/extend", num_frames=8, frames=5, prompt="a blue ring")["id"]
    wait(client, other)
    tokens = Video.load(clip_of(client, other, tmp_path)).tokens
    assert len(tokens) == 4 and np.array_equal(tokens[:2], whole.tokens[:2])
    refused = client.post(f"/v1/videos/{first}/extend", json={"frames": 99})
    assert refused.status_code == 400 and "frames: must be from 1 to 9" in refused.json()["error"]["message"]


def test_a_picture_is_uploaded_and_continued(client, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((32, 48, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    with (tmp_path / "grey.png").open("rb") as file:
        answer = client.post("/v1/videos", data={"prompt": "a red ball", "seconds": "1", "guidance_scale": "1"},
                             files={"input_reference": ("grey.png", file)})  # fmt: skip
    assert answer.status_code == 200, answer.text
    done = wait(client, answer.json()["id"])
    video = Video.load(clip_of(client, done["id"], tmp_path))
    assert len(video.frames) == 9 and abs(int(video.frames[0].mean()) - 200) < 8


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": ""}, "prompt: must not be empty"),
        ({"prompt": "a ball", "sead": 3}, "body: must have names of"),
        ({"prompt": "a ball", "seconds": "soon"}, "seconds: must be a number"),
        ({"prompt": "a ball", "seconds": 1e9}, "seconds"),
        ({"prompt": "a ball", "seconds": 601}, "seconds: must be at most 120"),
        ({"prompt": "a ball", "size": "720x1280"}, "height: must be 32"),
        ({"prompt": "a ball", "size": [1]}, "size: must be WIDTHxHEIGHT"),
        ({"prompt": "a ball", "model": "sora"}, "model: must be one of debug, played"),
        ({"prompt": "a ball", "live": 1}, "live: must be true or false"),
        ({"prompt": {"a": 1}}, "prompt: must be a text"),
        ({"prompt": "a ball", "endless": True, "seconds": 2}, "seconds: must not be given"),
        ({"prompt": "a ball", "fit": {}}, "fit: must be one of"),
        ([], "body: must be a JSON object"),
        ({"prompt": "a ball \ud800"}, "body: must be a JSON object"),
        ({"prompt": "a ball", "seed": json.loads("[" * 50 + "]" * 50)}, "body: must be a JSON object of few levels"),
        ({"prompt": "a ball", "seed": True}, "seed: must be"),
        ({"prompt": "a ball", "seed": 10**30}, "seed: must be"),
        ({"prompt": "a ball", "temperature": [[0, 0]]}, "temperature: must be"),
        ({"prompt": "a ball", "model": "played", "keys": "a-" + "9" * 5000}, "keys: must be"),
        ({"prompt": "a ball", "model": "played", "keys": "a-1000000," * 9 + "a-1"}, "keys: must be of at most"),
        ({"prompt": "a ball " * 10**5}, "body: must have at most"),
    ],
)
def test_what_is_refused_names_the_argument(client, body, told):
    answer = client.post("/v1/videos", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400 and told in answer.json()["error"]["message"]
    assert client.get("/v1/videos").json()["data"] == []
    assert [*client.jobs.store.uploads.iterdir()] == []


def test_bodies_that_are_none_are_refused(client):
    for body, kind in ((b"{", "application/json"), (b"\xff", "application/json"), (b"[" * 10**5, "application/json"),
                       (b"x", "text/plain"), (b"NaN", "application/json"), (b"x", "multipart/form-data")):  # fmt: skip
        answer = client.post("/v1/videos", content=body, headers={"content-type": kind})
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    files = {"input_reference": ("clip.exe", b"MZ")}
    assert "must end in" in client.post("/v1/videos", data={"prompt": "a ball"}, files=files).json()["error"]["message"]
    files = {"input_reference": ("clip.mp4", b"no clip")}
    answer = client.post("/v1/videos", data={"prompt": "a ball"}, files=files)
    assert answer.status_code == 400 and str(client.jobs.store.uploads) not in answer.text
    for kind in ("undefined", "punycode", "unicode_escape", "no-such"):
        body = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\\u\r\n--x--\r\n'
        head = {"content-type": f"multipart/form-data; boundary=x; charset={kind}"}
        assert client.post("/v1/videos", content=body, headers=head).status_code in (200, 400)
    for name, value in (("host", "[::1"), ("origin", "http://[")):
        assert client.post("/v1/videos", json={}, headers={name: value}).status_code in (400, 421)
    for path, data in (("/v1/videos", {"prompt": "a ball", "seconds": "soon"}), ("/v1/videos/x/extend", {})):
        assert client.post(path, data=data, files={"image": ("a.png", b"x" * 99)}).status_code in (400, 404)
    assert [*client.jobs.store.uploads.iterdir()] == [], "nothing of a refused request is kept"
    assert client.get("/v1/videos?limit=0").json()["error"]["param"] == "limit"
    for identity in ("video_" + "a" * 22, "..%2f..%2fetc", "x"):
        assert client.get(f"/v1/videos/{identity}/content").status_code == 404


def test_a_full_queue_answers_429(make_jobs):
    from starlette.testclient import TestClient

    from reelm.serving.app import make_app

    with TestClient(make_app(make_jobs(jobs=1), hosts=("testserver",))) as client:
        ask(client, num_frames=401)
        answer = client.post("/v1/videos", json={"prompt": "a red ball"})
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0


def hang_up(client, socket):
    """Close a WebSocket, and wait until nothing is drawn; the test client would cancel what the server does then."""
    socket.close()
    for _ in range(300):
        if client.jobs.running == 0:
            return
        time.sleep(0.01)
    raise AssertionError("it is still drawn")


def pictures(socket):
    """The pictures and the other messages until the end."""
    shown, said = {}, []
    while True:
        message = socket.receive()
        if message.get("bytes") is not None:
            number, width, height, _ = HEADER.unpack(message["bytes"][: HEADER.size])
            pixels = np.frombuffer(message["bytes"][HEADER.size :], np.uint8)
            shown[number] = pixels.reshape(height, width, 3)
        else:
            said.append(json.loads(message["text"]))
            if said[-1]["type"] == "end":
                return shown, said


def test_a_clip_is_watched_while_it_is_drawn(client, debug_generator):
    alone = debug_generator.generate("a red ball", seed=7, num_frames=9, guidance_scale=1.0)
    job = ask(client, seed=7, live=True)
    with client.websocket_connect(f"/v1/videos/{job['id']}/stream?tokens=true") as socket:
        shown, said = pictures(socket)
    assert np.array_equal(np.stack([shown[n] for n in range(9)]), alone.frames)
    clip = said[0]
    drawn = [token for each in said if each["type"] == "tokens" for token in each["tokens"]]
    grid = np.zeros(len(drawn), int)
    size = clip["rows"] * clip["columns"]
    for n, token in enumerate(drawn):
        grid[n // size * size + clip["order"][n % size]] = token
    assert np.array_equal(grid.reshape(alone.tokens.shape), alone.tokens)
    assert said[-1]["status"] == "completed"
    with client.websocket_connect(f"/v1/videos/{job['id']}/stream") as socket:
        assert pictures(socket)[1] == [{"type": "end", "status": "completed"}]


def test_a_clip_is_streamed_as_mp4_while_it_is_drawn(client, debug_generator, tmp_path):
    job = ask(client, seed=7, live=True, num_frames=41)
    with client.stream("GET", f"/v1/videos/{job['id']}/stream") as answer:
        assert answer.headers["content-type"] == "video/mp4"
        parts = [*answer.iter_raw()]
    (tmp_path / "live.mp4").write_bytes(b"".join(parts))
    frames = read_clip(tmp_path / "live.mp4").frames_THW3.numpy().astype(float)
    alone = debug_generator.generate("a red ball", seed=7, num_frames=41, guidance_scale=1.0).frames
    assert frames.shape == alone.shape
    grey, wanted = (clip.mean(-1).reshape(-1, 16, 2, 24, 2).mean((2, 4)).ravel() for clip in (frames, alone))
    assert np.corrcoef(grey, wanted)[0, 1] > 0.95  # noise, whose colours H.264 halves
    assert client.get(f"/v1/videos/{job['id']}/stream").status_code in (200, 400)


def test_a_clip_without_an_end_is_steered_and_stopped(client, debug_generator, tmp_path):
    job = ask(client, seed=7, endless=True, num_frames=None)
    with client.websocket_connect(f"/v1/videos/{job['id']}/stream") as socket:
        frames = []
        while len(frames) < 4:
            message = socket.receive()
            said = json.loads(message["text"]) if message.get("text") else {}
            if said.get("type") == "frame":
                frames.append(said["number"])
                if len(frames) == 1:
                    socket.send_json({"type": "prompt", "prompt": "a blue ring"})
                    socket.send_json({"type": "prompt", "prompt": ""})
                socket.send_json({"type": "ack", "frame": said["number"]})
        socket.send_json({"type": "stop"})
        rest = pictures(socket)[1]
    assert frames == [0, 1, 2, 3] and rest[-1]["status"] == "completed"
    video = Video.load(clip_of(client, job["id"], tmp_path))
    (_, first), (at, second) = video.settings["prompts"]
    assert (first, second) == ("a red ball", "a blue ring") and at <= 3
    seconds = (1 + 4 * (at - 1)) / 8
    again = debug_generator.generate([(0, "a red ball"), (seconds, "a blue ring")], seed=7, guidance_scale=1.0,
                                     num_frames=len(video.frames))  # fmt: skip
    assert np.array_equal(video.tokens, again.tokens)


def test_a_clip_whose_viewer_goes_away_is_parked_and_goes_on_with_the_next_one(client, debug_generator, tmp_path):
    job = ask(client, seed=7, live=True, num_frames=201)
    with client.websocket_connect(f"/v1/videos/{job['id']}/stream") as socket:
        socket.receive()
        hang_up(client, socket)
    assert client.get(f"/v1/videos/{job['id']}").json()["status"] in ("queued", "in_progress")
    with client.websocket_connect(f"/v1/videos/{job['id']}/stream") as socket:
        assert pictures(socket)[1][-1]["status"] == "completed"
    alone = debug_generator.generate("a red ball", seed=7, num_frames=201, guidance_scale=1.0)
    assert np.array_equal(Video.load(clip_of(client, job["id"], tmp_path)).tokens, alone.tokens)


def test_a_world_is_played_with_receipts_and_kept(client, played_generator, tmp_path):
    with client.websocket_connect("/v1/play") as socket:
        socket.send_json({"model": "played", "prompt": "a red ball", "seed": 3})
        ready = socket.receive_json()
        assert ready["type"] == "ready" and ready["seed"] == 3 and "jump" in ready["keys"]
        socket.send_json({"type": "keys", "held": ["jump"], "id": 5})
        socket.send_json({"type": "keys", "held": ["jmp"]})
        shown, receipts, errors = 0, [], []
        while shown < 6 or not receipts:
            message = socket.receive()
            if message.get("bytes") is not None:
                shown += 1
            else:
                said = json.loads(message["text"])
                (receipts if said["type"] == "receipt" else errors).append(said)
        assert receipts[0]["id"] == 5 and receipts[0]["picture"] >= 1
        assert errors and "did you mean 'jump'" in errors[0]["message"]
        socket.send_json({"type": "stop"})
        end = pictures(socket)[1][-1]
        assert end["figures"]["pictures"] >= 6
    job = wait(client, end["id"])
    assert job["status"] == "completed" and job["options"]["seed"] == 3
    kept = Video.load(clip_of(client, job["id"], tmp_path))
    again = played_generator.generate("a red ball", seed=3, keys=job["options"]["keys"])
    assert len(kept.tokens) == len(again.tokens) and np.array_equal(kept.tokens, again.tokens)
    with client.websocket_connect("/v1/play") as socket:
        socket.send_bytes(b"\x00")
        assert "must be a JSON object" in socket.receive_json()["message"]
    for values, told in (({"model": "debug"}, "must be one that is played"), ({"keys": 1}, "must have names of")):
        with client.websocket_connect("/v1/play") as socket:
            socket.send_json(values)
            assert told in socket.receive_json()["message"]
            with pytest.raises(WebSocketDisconnect):
                socket.receive_json()


def test_a_clip_is_scored(client, debug_generator, tmp_path):
    video = debug_generator.generate("a red ball", seed=7, num_frames=9, guidance_scale=1.0)
    path = video.save(tmp_path / "clip.mp4")
    with path.open("rb") as file:
        answer = client.post("/v1/score", data={"prompt": "a red ball"}, files={"video": ("clip.mp4", file)})
    wanted = debug_generator.score(path, "a red ball").nats_per_token
    assert answer.json()["nats_per_token"] == pytest.approx(wanted, rel=1e-6)
    answer = client.post("/v1/score", json={"prompt": "a red ball", "seed": 1, "live": True})
    assert "must have a clip, a prompt and a model alone, got 'live, seed'" in answer.json()["error"]["message"]


def test_health_metrics_models_and_the_description(client):
    assert client.get("/health").json()["status"] == "ok"
    job = ask(client)
    wait(client, job["id"])
    while client.jobs.running:
        time.sleep(0.01)
    text = client.get("/metrics").text
    assert "reelm_jobs_running 0" in text and int(text.split("reelm_passes_total ")[-1]) > 0
    models = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["debug", "played"] and "jump" in models[1]["keys"]
    described = client.get("/openapi.json").json()
    assert {"/v1/videos", "/v1/videos/{identity}/content", "/v1/score"} <= set(described["paths"])
    assert all("4XX" in call["responses"] and "422" not in call["responses"]
               for calls in described["paths"].values() for call in calls.values())  # fmt: skip
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]


def test_what_is_null_is_as_if_it_were_not_given(client):
    assert ask(client, seed=7, live=None, size=None, keys=None)["options"]["seed"] == 7


def test_a_method_that_an_address_has_not_is_refused_with_those_that_it_has(client):
    for path, methods in (("/v1/videos", "GET, POST"), ("/v1/videos/video_x", "DELETE, GET")):
        answer = client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_a_form_that_cannot_be_read_is_refused_with_the_reason(client):
    form = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/videos", headers=form, content=b"--x\r\nno header\r\n\r\n1\r\n--x--\r\n")
    told = answer.json()["error"]["message"]
    assert (
        answer.status_code == 400 and told.startswith("body: must be a form that can be read (") and "HTTP" not in told
    )


def test_other_sites_other_names_and_visitors_without_the_token_are_not_let_in(make_jobs):
    from starlette.testclient import TestClient

    from reelm.serving.app import make_app

    app = make_app(make_jobs(body_bytes=1000), hosts=("testserver",), token="a secret of the test")
    with TestClient(app) as client:
        assert client.get("/v1/videos").status_code == 401
        client.headers["authorization"] = "Bearer a secret of the test"
        assert client.get("/v1/videos").status_code == 200
        assert client.get("/v1/videos", headers={"host": "evil.example"}).status_code == 421
        evil = {"origin": "http://evil.example"}
        assert client.post("/v1/videos", json={}, headers=evil).status_code == 403
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/play", headers=evil):
            pass
        assert client.post("/v1/videos", json={"prompt": "a" * 2000}).status_code == 413
        chunks = (b"x" * 500 for _ in range(5))
        assert client.post("/v1/videos", content=chunks).status_code == 413
        own = {"origin": "http://testserver"}
        assert client.post("/v1/videos", json={}, headers=own).status_code in (200, 400)


def test_a_viewer_goes_on_where_the_line_broke(client, debug_generator):
    """The pictures of a clip, in two halves, the second after others were drawn."""
    alone = debug_generator.generate("a red ball", seed=7, num_frames=41, guidance_scale=1.0)
    job = ask(client, seed=7, live=True, num_frames=41)
    shown = {}
    with client.websocket_connect(f"/v1/videos/{job['id']}/stream") as socket:
        while len(shown) < 9:
            message = socket.receive()
            if message.get("bytes") is not None:
                number, width, height, _ = HEADER.unpack(message["bytes"][: HEADER.size])
                pixels = np.frombuffer(message["bytes"][HEADER.size :], np.uint8)
                shown[number] = pixels.reshape(height, width, 3)
        hang_up(client, socket)
    with client.websocket_connect(f"/v1/videos/{job['id']}/stream?first=3") as socket:
        rest, said = pictures(socket)
    if said[0]["type"] == "clip":  # it was not over yet
        assert min(rest) == 9
        shown |= rest
        assert np.array_equal(np.stack([shown[n] for n in range(41)]), alone.frames)


def test_a_tap_between_two_steps_is_held_in_the_next_one():
    receipts = []
    player = SocketPlayer(lambda identity, picture: receipts.append((identity, picture)))
    player.hold(frozenset({"jump"}), 1)
    player.hold(frozenset(), 2)
    assert player.held(0.0) == {"jump"}
    assert player.next_keys(1.0, 2).keys == (frozenset({"jump"}),) * 2 and receipts == [(1, 1), (2, 1)]
    assert player.next_keys(2.0, 1).keys == (frozenset(),)
