# The image that kubernetes/ names: Ray, the pinned packages and this code, in the folder where jobs start.
FROM rayproject/ray:2.60.0-py311-gpu
COPY requirements.txt /home/ray/requirements.txt
RUN pip install --no-cache-dir -r /home/ray/requirements.txt
COPY --chown=ray bts /home/ray/bts
COPY --chown=ray jobs /home/ray/jobs
ENV PYTHONPATH=/home/ray
WORKDIR /home/ray
