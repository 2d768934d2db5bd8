"""Every queue handler of this project, in one place: what an application can enqueue."""

from flatearth_pipelines.cleanup.handlers import REVOKE_BOARD_ACCESS
from flatearth_pipelines.entropy.handlers import CHECK_CARD_ENTROPY
from flatearth_pipelines.notifications.handlers import DELIVER_BUNDLE, SEND_EMAIL
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines.reports.handlers import MORNING_REPORT
from flatearth_pipelines.webhooks.handlers import SEND_WEBHOOK

HANDLERS = Registry([CHECK_CARD_ENTROPY, DELIVER_BUNDLE, MORNING_REPORT, REVOKE_BOARD_ACCESS, SEND_EMAIL, SEND_WEBHOOK])
