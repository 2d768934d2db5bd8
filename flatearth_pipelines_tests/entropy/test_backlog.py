import sqlalchemy as sa
from flatearth_pipelines import database as db
from flatearth_pipelines.entropy.backlog import postpone_backlog
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import NOON, DAY, MICROSECOND
def test_smoke(database: str) -> None:
    e=db.engine(database,"t")
    with e.begin() as c:
        a=make.account(c); make.user(c,a,"owner"); b=make.board(c,a)
        make.card(c,b,30*DAY); make.card(c,b,30*DAY+MICROSECOND)
    with e.connect() as c:
        o=postpone_backlog(c,NOON)
    e.dispose()
    assert (o.due,o.postponed,o.unattributed)==(1,1,0)
