"""The folder for fairseq's --user-dir: importing it registers the plugin, even if the package is not installed."""

import sys
from pathlib import Path

package = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(package.parent))  # as fairseq does with the parent of a --user-dir

import weighted_freezing_fairseq  # noqa: E402
from weighted_freezing_fairseq.errors import hide_traceback_of_user_errors  # noqa: E402

hide_traceback_of_user_errors()  # of a fairseq command, which has no other place for it
weighted_freezing_fairseq.register()

from weighted_freezing_fairseq.plugin.user_dir import refuse_other_version  # noqa: E402

refuse_other_version(package)  # another copy may have been imported before
