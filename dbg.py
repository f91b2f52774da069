import sys,time
sys.path.insert(0,'tests')
from support.postgres import PostgresServer
import psycopg
with PostgresServer() as s:
    t=time.time()
    if len(sys.argv)>1:
        d=s.database(); c=psycopg.connect(d)
    t=time.time()
    pid=s._process.pid
    import subprocess
    print(open(f'/proc/{pid}/status').read().split('SigQ')[1])
print(time.time()-t)
