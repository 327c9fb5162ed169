# The image that kubernetes/ names: Ray, the pinned packages and this code, in the folder where jobs start.
# Build it with --build-arg COMMIT=$(git describe --always --dirty --abbrev=12): the models that
# are trained in it then tell what made them.
FROM rayproject/ray:2.60.0-py311-gpu
COPY requirements.txt /home/ray/requirements.txt
RUN pip install --no-cache-dir -r /home/ray/requirements.txt
COPY --chown=ray bts /home/ray/bts
COPY --chown=ray jobs /home/ray/jobs
ENV PYTHONPATH=/home/ray
# Ray tells its makers nothing of the cluster.
ENV RAY_USAGE_STATS_ENABLED=0
ARG COMMIT=
ENV BTS_COMMIT=$COMMIT
WORKDIR /home/ray
