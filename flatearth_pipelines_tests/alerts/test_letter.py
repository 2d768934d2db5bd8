"""What the mail about a failed run says."""

from flatearth_pipelines.alerts.letter import Failed, subject_and_text, summary

FAILED = Failed("auto_postpone", "7c1d", ["scan: Postgres broke off", "tell: no mail"])


def test_a_mail_names_the_job_the_run_and_every_reason() -> None:
    subject, text = subject_and_text(FAILED, 0)
    assert subject == "A run of auto_postpone has failed"
    assert "\n    scan: Postgres broke off\n    tell: no mail\n" in text
    assert "/runs/7c1d\n" in text
    assert "since the last mail" not in text


def test_a_mail_counts_those_that_nobody_was_told_of() -> None:
    assert "\n1 other of this job failed since the last mail.\n" in subject_and_text(FAILED, 1)[1]
    assert "\n1,200 others of this job failed since the last mail.\n" in subject_and_text(FAILED, 1_200)[1]


def test_the_log_is_told_in_one_line() -> None:
    assert summary(FAILED) == "A run of auto_postpone has failed: scan: Postgres broke off; tell: no mail"
