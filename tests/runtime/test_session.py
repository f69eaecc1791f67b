"""Sessions as they are opened here."""

from __future__ import annotations

from onnxprune.runtime.session import open_session, session_options
from tests.helpers.builders import mlp
from tests.helpers.running import put


def test_options_serve_several_sessions_without_a_warning(tmp_path, capfd):
    options, path = session_options(), put(tmp_path / "m.onnx", mlp((64, 32)))
    for _ in range(2):
        open_session(path, options=options)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert "AddConfigEntry" not in capfd.readouterr().err
