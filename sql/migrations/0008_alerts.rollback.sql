drop table flatearth.alerts;
