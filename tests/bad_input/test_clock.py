"""IA11: a request that was listened to is no good once its time is over."""

import subprocess

import cases
import cluster
import conftest
import raw

AHEAD_SECONDS = 16 * 60


def serve(region, *arguments):
    """The region alone, its clock set to something else."""
    command = [cluster.binary(), "serve", "--config", region.config, *arguments]
    region.process = cluster.spawn(command, region.cluster.log, stdout=subprocess.DEVNULL)
    region.pid = region.process.pid
    connected = cluster.wait_until(lambda: connects(region), "the region listens", 60)
    assert connected and cluster.alive(region.pid)


def connects(region):
    try:
        raw.connect(region.endpoint).close()
        return True
    except OSError:
        return False


def test_ia11_a_request_is_refused_once_its_time_is_over():
    with cluster.Cluster(regions=1) as running:
        region = running.regions[0]
        client = region.client()
        client.create_table("t", conftest.KEY)
        client.close()
        context = conftest.Context(region)
        heard = context.request("GetRow", cases.GOOD)
        assert context.send(heard).status == 200
        assert context.send(heard).status == 200, "within its time it may be said again"
        region.kill()
        serve(region, "--clock-ahead-ms", str(AHEAD_SECONDS * 1000))
        outcome = context.send(heard)
        assert outcome.status == 403
        assert "Mismatch between system time and x-ots-date" in outcome.answers[0].error()[1]
        now = cases.wire.now_text(AHEAD_SECONDS)
        assert context.send(context.request("GetRow", cases.GOOD, date=now)).status == 200
        # A restart takes the clock as it is: what was set wrong can be put right.
        region.kill()
        region.start()
        assert context.send(context.request("GetRow", cases.GOOD)).status == 200
        assert context.send(context.request("GetRow", cases.GOOD, date=now)).status == 403
